"""Uptrains a converted model: a little training that lets it live with fewer keys and values.

    uptrain.py --model converted --output uptrained --text corpus.txt --base_tokens 300e9

The model is any directory of the GPT-NeoX family that `polystrate convert` writes, or a stock one.
It is trained for a share of the tokens that its base was trained on (MLKV's authors took 1.7 %,
GQA's 5 %) and written with the dtypes, the tokenizer and the sharing map that it came with.
"""

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from checkpoint import (
    TOKENIZER_FILES,
    fuse,
    is_stock,
    load_checkpoint,
    read_config,
    read_tensors,
    write_json,
    write_tensors,
)
from demo_corpus import WINDOW, windows_of
from mlkv_model import MlkvModel, kv_source
from training import Recipe, evaluate, optimise, set_up

FACTS_FILE = "uptraining.json"
MLKV_SHARE = 0.017  # 5.0 of 300 billion tokens (arXiv 2406.09297)
WARMUP_SHARE = 0.2  # of the steps, as there


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="converted directory to read")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to train on")
    parser.add_argument("--heldout", type=Path, help="UTF-8 text to measure the result by")
    parser.add_argument("--base_tokens", type=float, required=True, help="the base was trained on")
    parser.add_argument("--share", type=float, default=MLKV_SHARE, help="of these to train for")
    parser.add_argument("--batch_tokens", type=int, default=1024)
    parser.add_argument("--sequence_tokens", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1616)
    return parser.parse_args()


def make_recipe(arguments: argparse.Namespace) -> Recipe:
    tokens = arguments.base_tokens * arguments.share
    steps = max(round(tokens / arguments.batch_tokens), 1)
    return Recipe(
        steps,
        arguments.batch_tokens,
        {arguments.sequence_tokens: 1.0},
        arguments.learning_rate,
        math.ceil(WARMUP_SHARE * steps),
    )


def write_model(source: Path, directory: Path, model: MlkvModel) -> None:
    """The model as a directory like the one that it was read from, tensor by tensor."""
    config, original = read_config(source), read_tensors(source)
    trained = model.state_dict()
    if is_stock(config):
        trained = fuse(trained, config)
    if any(owner != layer for layer, owner in enumerate(kv_source(config))):
        config["reuse_keys"] = "post_rope"
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(
        directory,
        {name: tensor.to(original[name].dtype).contiguous() for name, tensor in trained.items()},
    )
    write_json(directory / "config.json", config)
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, directory / name)


def uptrain(arguments: argparse.Namespace) -> dict:
    """Trains and writes the model; the facts of the run."""
    started = time.process_time()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(arguments.text.read_text()).ids)
    positions = read_config(arguments.model)["max_position_embeddings"]
    if arguments.sequence_tokens > positions:
        raise ValueError(
            f"--sequence_tokens {arguments.sequence_tokens}: the model has {positions}"
        )
    if len(ids) <= arguments.sequence_tokens:
        raise ValueError(
            f"{arguments.text}: {len(ids)} tokens; sequences of {arguments.sequence_tokens} "
            "need a longer text, or a smaller --sequence_tokens"
        )
    model = load_checkpoint(arguments.model, arguments.dropout)
    recipe = make_recipe(arguments)
    facts = {
        "share": arguments.share,
        "tokens": recipe.steps * recipe.batch_tokens,
        "steps": recipe.steps,
        "batch_tokens": recipe.batch_tokens,
        "sequence_tokens": arguments.sequence_tokens,
        "learning_rate": recipe.learning_rate,
        "training_tokens": len(ids),
    }
    for _ in optimise(model, ids, recipe):
        pass
    if arguments.heldout:
        windows = windows_of(tokenizer, arguments.heldout.read_text(), min(WINDOW, positions))
        dtype = next(iter(read_tensors(arguments.model).values())).dtype
        facts["heldout"] = evaluate(model, windows, dtype)
    facts["seconds"] = time.process_time() - started
    write_model(arguments.model, arguments.output, model)
    write_json(arguments.output / FACTS_FILE, facts)
    return facts


def main() -> int:
    arguments = parse_arguments()
    set_up(arguments.seed)
    try:
        facts = uptrain(arguments)
    except (OSError, ValueError) as error:
        print(f"uptrain.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: value for key, value in facts.items() if key != "heldout"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
