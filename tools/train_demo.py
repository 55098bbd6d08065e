"""Trains a small GPT-NeoX on Shakespeare's plays: one CPU thread, an hour.

--shape demo is models/demo, whose KV heads run through its layers from the start; --shape mha
shares nothing: with it study.py begins models/shakespeare-mha, which is there to be converted.

Whenever the held-out loss improves, the whole model directory is written anew, so an interrupted
run leaves the best model so far.
"""

import argparse
import math
import time
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from checkpoint import fuse, is_stock, write_json, write_tensors
from demo_card import trained_card
from demo_corpus import (
    END_OF_TEXT,
    HELDOUT_BYTES,
    REPOSITORY,
    heldout_windows,
    read_corpus,
    train_tokenizer,
)
from heldout import HELDOUT_FILE, SAMPLE_FILE, SAMPLE_WINDOWS, write_windows
from mlkv_model import Config, MlkvModel, initialise
from training import Recipe, evaluate, optimise, set_up

MHA: Config = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 1024,
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 384,
    "hidden_act": "gelu",
    "rotary_pct": 0.5,
    "rotary_emb_base": 10000,
    "max_position_embeddings": 1024,
    "use_parallel_residual": True,
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "attention_bias": True,
    "use_cache": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}
DEMO: Config = MHA | {
    "num_key_value_heads": 2,
    "num_key_value_layers": 4,
    "reuse_keys": "post_rope",
    "use_key_value_mlp": False,
    "intermediate_size": 400,
    "max_position_embeddings": 2048,
}
# Mostly short sequences, which are cheap; enough long ones to learn to attend over all positions.
SHAPES: dict[str, tuple[Config, dict[int, float], str]] = {
    "demo": (DEMO, {256: 0.85, 1024: 0.12, 2048: 0.03}, "demo"),
    "mha": (MHA, {256: 0.88, 512: 0.08, 1024: 0.04}, "shakespeare-mha"),
}
BATCH_TOKENS = 2048
WARMUP_STEPS = 100


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--out", type=Path, help="model directory to write; models/... by default")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--stop_after", type=int, help="steps; the schedule's rest is left out")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--evaluate_every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1616)
    arguments = parser.parse_args()
    arguments.out = arguments.out or REPOSITORY / "models" / SHAPES[arguments.shape][2]
    return arguments


def write_tokenizer(directory: Path, tokenizer: Tokenizer, positions: int) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "unk_token": END_OF_TEXT,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": positions,
        },
    )


def write_model(directory: Path, model: MlkvModel, config: Config) -> None:
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(directory, fuse(tensors, config) if is_stock(config) else tensors)
    write_json(directory / "config.json", config)
    write_json(
        directory / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.8},
    )


def train(arguments: argparse.Namespace) -> None:
    started = time.process_time()  # not the clock on the wall: the machine may be shared
    config, length_shares, _ = SHAPES[arguments.shape]
    arguments.out.mkdir(parents=True, exist_ok=True)
    text, _ = read_corpus()
    tokenizer = train_tokenizer(text, config["vocab_size"])
    write_tokenizer(arguments.out, tokenizer, config["max_position_embeddings"])
    windows = heldout_windows(tokenizer)
    write_windows(arguments.out / SAMPLE_FILE, windows[:SAMPLE_WINDOWS])
    ids = torch.tensor(tokenizer.encode(text).ids)

    model = MlkvModel(config, arguments.dropout)
    initialise(model, config)
    facts = vars(arguments) | {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "training_tokens": len(ids),
        "heldout_bytes": HELDOUT_BYTES,
        "batch_tokens": BATCH_TOKENS,
        "length_shares": length_shares,
    }
    recipe = Recipe(
        arguments.steps, BATCH_TOKENS, length_shares, arguments.learning_rate, WARMUP_STEPS
    )
    best = math.inf
    last = arguments.stop_after or arguments.steps
    for step in islice(optimise(model, ids, recipe), last):
        if step % arguments.evaluate_every and step != last:
            continue
        heldout = evaluate(model, windows, torch.bfloat16)
        print(f"step {step} held-out loss {heldout['loss']:.4f}", flush=True)
        if heldout["loss"] < best:
            best = heldout["loss"]
            write_model(arguments.out, model, config)
            write_json(arguments.out / HELDOUT_FILE, heldout)
            facts |= {"best_step": step, "minutes": (time.process_time() - started) / 60}
            (arguments.out / "README.md").write_text(trained_card(config, heldout, facts))


def main() -> None:
    arguments = parse_arguments()
    set_up(arguments.seed)
    train(arguments)


if __name__ == "__main__":
    main()
