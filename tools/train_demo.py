"""Trains the demo model, a small MLKV GPT-NeoX, on Shakespeare's plays: one CPU thread, an hour.

Whenever the held-out loss improves, the whole model directory is written anew, so an interrupted
run leaves the best model so far.
"""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from demo_card import model_card
from demo_corpus import (
    DEMO_DIR,
    END_OF_TEXT,
    HELDOUT_BYTES,
    WINDOW,
    heldout_windows,
    read_corpus,
    train_tokenizer,
)
from heldout import HELDOUT_FILE, SAMPLE_FILE, SAMPLE_WINDOWS, write_windows
from mlkv_model import Config, MlkvModel, initialise

CONFIG: Config = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "vocab_size": 1024,
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_key_value_layers": 4,
    "reuse_keys": "post_rope",
    "use_key_value_mlp": False,
    "intermediate_size": 400,
    "hidden_act": "gelu",
    "rotary_pct": 0.5,
    "rotary_emb_base": 10000,
    "max_position_embeddings": 2048,
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
BATCH_TOKENS = 2048
# Mostly short sequences, which are cheap; enough long ones to learn to attend over all positions.
LENGTH_SHARES = {256: 0.85, 1024: 0.12, 2048: 0.03}
WARMUP_STEPS = 100
# Matrix products may round their inputs to bfloat16: half the time where the processor can do so.
TRAINING_PRECISION = "medium"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEMO_DIR, help="model directory to write")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--evaluate_every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=1616)
    return parser.parse_args()


def sample_batch(ids: Tensor) -> Tensor:
    """Random stretches of the text, [batch, length + 1], BATCH_TOKENS predictions in all."""
    length = random.choices(list(LENGTH_SHARES), list(LENGTH_SHARES.values()))[0]
    starts = torch.randint(len(ids) - length, (BATCH_TOKENS // length,))
    return torch.stack([ids[start : start + length + 1] for start in starts])


def cross_entropy(model: MlkvModel, ids: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction
    )


@torch.no_grad()
def window_losses(model: MlkvModel, windows: list[list[int]]) -> list[float]:
    """The summed loss of each held-out window's predicted tokens: all but its first."""
    return [cross_entropy(model, torch.tensor([window]), "sum").item() for window in windows]


def learning_rate_factor(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def make_optimizer(model: MlkvModel, learning_rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # norms and biases are not to shrink
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
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
            "model_max_length": CONFIG["max_position_embeddings"],
        },
    )


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_model(directory: Path, model: MlkvModel) -> None:
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in model.state_dict().items()}
    unfinished = directory / "model.safetensors.part"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.chmod(0o644)  # safetensors makes its files private
    unfinished.rename(directory / "model.safetensors")  # a reader never sees half a file
    write_json(directory / "config.json", CONFIG)
    write_json(
        directory / "generation_config.json",
        {"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.8},
    )


def evaluate(model: MlkvModel, windows: list[list[int]]) -> dict:
    """Held-out figures of the model as it will be shipped: with its weights rounded to bfloat16."""
    shipped = copy.deepcopy(model).eval()
    for parameter in shipped.parameters():
        parameter.data = parameter.data.bfloat16().float()
    torch.set_float32_matmul_precision("highest")
    losses = window_losses(shipped, windows)
    torch.set_float32_matmul_precision(TRAINING_PRECISION)
    predicted = [len(window) - 1 for window in windows]
    return {
        "loss": sum(losses) / sum(predicted),
        "windows": len(windows),
        "window_tokens": WINDOW,
        "predicted_tokens": sum(predicted),
        "sample_window_losses": [
            loss / count for loss, count in zip(losses, predicted, strict=True)
        ][:SAMPLE_WINDOWS],
    }


def train(arguments: argparse.Namespace) -> None:
    started = time.process_time()  # not the clock on the wall: the machine may be shared
    arguments.out.mkdir(parents=True, exist_ok=True)
    text, _ = read_corpus()
    tokenizer = train_tokenizer(text, CONFIG["vocab_size"])
    write_tokenizer(arguments.out, tokenizer)
    windows = heldout_windows(tokenizer)
    write_windows(arguments.out / SAMPLE_FILE, windows[:SAMPLE_WINDOWS])
    ids = torch.tensor(tokenizer.encode(text).ids)

    model = MlkvModel(CONFIG, arguments.dropout)
    initialise(model, CONFIG)
    optimizer = make_optimizer(model, arguments.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, arguments.steps)
    )
    facts = vars(arguments) | {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "training_tokens": len(ids),
        "heldout_bytes": HELDOUT_BYTES,
        "batch_tokens": BATCH_TOKENS,
        "length_shares": LENGTH_SHARES,
    }
    best = math.inf
    torch.set_float32_matmul_precision(TRAINING_PRECISION)
    for step in range(1, arguments.steps + 1):
        loss = cross_entropy(model, sample_batch(ids))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            rate = step * BATCH_TOKENS / (time.process_time() - started)
            print(f"step {step} loss {loss.item():.3f} {rate:.0f} tokens/s", flush=True)
        if step % arguments.evaluate_every == 0 or step == arguments.steps:
            heldout = evaluate(model, windows)
            print(f"step {step} held-out loss {heldout['loss']:.4f}", flush=True)
            if heldout["loss"] < best:
                best = heldout["loss"]
                write_model(arguments.out, model)
                write_json(arguments.out / HELDOUT_FILE, heldout)
                facts |= {"best_step": step, "minutes": (time.process_time() - started) / 60}
                (arguments.out / "README.md").write_text(model_card(CONFIG, heldout, facts))


def main() -> None:
    arguments = parse_arguments()
    # One thread, so that the same command gives the same model on machines of any size.
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    train(arguments)


if __name__ == "__main__":
    main()
