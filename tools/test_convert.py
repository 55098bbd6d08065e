"""Checks `polystrate convert` on models of the Llama family against transformers, which must load
what comes out of a conversion to GQA or MQA and compute the same log-probabilities as the engine.

Plain `python tools/test_convert.py [--binary build/cpu/polystrate]`: it needs torch and
transformers, which the product does not, so it is no part of the product's tests.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
import transformers
from torch import Tensor

from demo_corpus import REPOSITORY

TOKENS = 40
TOLERANCE = 2e-5  # of a log-probability; float32 on both sides
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
# Three stored as MHA, one as GQA; biases, norms of heads, tied embeddings.
MODELS = {
    "llama": transformers.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "qwen3": transformers.Qwen3Config(**SHAPE | {"num_key_value_heads": 6, "head_dim": 32}),
}
TARGETS = [(heads, pool, grow) for heads in (6, 2, 1) for pool in ("sequential", "mean")
           for grow in (False, True)]  # fmt: skip


def make_model(config: transformers.PretrainedConfig, directory: Path) -> None:
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms too, which begin as constants
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(directory, max_shard_size="400KB")


def engine_logprobs(binary: Path, model: Path, token_ids: list[int]) -> Tensor:
    prompts = model.parent / "prompts.jsonl"
    prompts.write_text(json.dumps({"token_ids": token_ids}) + "\n")
    command = [binary, "score", "--model", model, "--input", prompts]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return torch.tensor(json.loads(output)["logprobs"][1:])


def transformers_logprobs(directory: Path, token_ids: list[int]) -> Tensor:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        logprobs = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    return logprobs[:-1].gather(1, torch.tensor(token_ids[1:])[:, None])[:, 0]


def check(binary: Path, name: str, config: transformers.PretrainedConfig, folder: Path) -> float:
    base = folder / "base"
    make_model(config, base)
    token_ids = torch.randint(SHAPE["vocab_size"], (TOKENS,)).tolist()
    worst = 0.0
    for heads, pool, grow in TARGETS:
        output = folder / f"{name}_{heads}_{pool}_{grow}"
        command = [binary, "convert", "--model", base, "--output", output, "--pool", pool]
        command += ["--kv_layers", "4", "--kv_heads", str(heads)] + ["--grow_mlp"] * grow
        subprocess.run(command, check=True, capture_output=True)
        difference = transformers_logprobs(output, token_ids) - engine_logprobs(
            binary, output, token_ids
        )
        worst = max(worst, difference.abs().max().item())
        assert worst < TOLERANCE, (name, heads, pool, grow, worst)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "build/cpu/polystrate")
    binary = parser.parse_args().binary
    transformers.utils.logging.disable_progress_bar()
    for name, config in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            worst = check(binary, name, config, Path(folder))
        print(f"{name}: {len(TARGETS)} conversions, largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
