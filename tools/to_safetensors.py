"""Turns a Hugging Face directory with pickled weights into one with safetensors.

    to_safetensors.py SOURCE_DIR OUT_DIR

Reads one pytorch_model.bin or the shards of a pytorch_model.bin.index.json, and writes as many
files. Every tensor keeps its dtype. Buffers that a program can compute itself are left out.
A pickle can run code, so only plain tensors are unpickled; anything else is refused.
"""

import argparse
import json
import pickle
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

BUFFERS = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class UserError(Exception):
    """A mistake the user can mend; its text says how."""


def read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object")
    return content


def find_shards(source: Path) -> list[Path]:
    """The files that hold the weights, in order."""
    single, index = source / "pytorch_model.bin", source / "pytorch_model.bin.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise UserError(f"{source}: neither {single.name} nor {index.name} is there")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: no weight_map")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if Path(shard).name != shard:
            raise UserError(f"{index}: shard {shard!r} is not a file name in this directory")
        if not (source / shard).is_file():
            raise UserError(f"{index} names {shard}, which is not there")
    return [source / shard for shard in shards]


def load_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: refused, not a plain weights file ({reason})") from error
    if not isinstance(weights, dict):
        raise UserError(f"{path}: refused, holds a {type(weights).__name__}, not named tensors")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: refused, entry {name!r} is not a named tensor")
    # safetensors takes neither strided tensors nor two that share memory, as tied weights do.
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
        if not name.endswith(BUFFERS)
    }


def convert_shards(shards: list[Path], out: Path) -> int:
    """Writes one safetensors file for each shard and, for several, their index. Returns tensors."""
    weight_map: dict[str, str] = {}
    total_size = 0
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        file_name = "model.safetensors" if len(shards) == 1 else name
        weights = load_weights(shard)
        if twice := weights.keys() & weight_map.keys():
            raise UserError(f"{shard}: {min(twice)} is in another shard too")
        save_file(weights, out / file_name, metadata={"format": "pt"})
        (out / file_name).chmod(0o644)  # safetensors makes its files private
        weight_map |= dict.fromkeys(weights, file_name)
        total_size += sum(tensor.nbytes for tensor in weights.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return len(weight_map)


def convert(source: Path, out: Path) -> int:
    """Writes all of OUT_DIR or, where anything is wrong, nothing. Returns the number of tensors."""
    if out.exists():
        raise UserError(f"{out} exists; name a new directory")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a directory")
    read_json(source / "config.json")  # without it the weights are of no use
    shards = find_shards(source)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        unfinished = Path(work) / out.name
        unfinished.mkdir()
        tensors = convert_shards(shards, unfinished)
        for name in COMPANIONS:
            if (source / name).is_file():
                shutil.copyfile(source / name, unfinished / name)
        unfinished.rename(out)
    return tensors


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    arguments = parser.parse_args()
    try:
        tensors = convert(arguments.source, arguments.out)
    except UserError as error:
        print(f"to_safetensors: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {tensors} tensors", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
