"""What the training scripts share: batches, the optimiser and its schedule, the held-out loss."""

import copy
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from heldout import SAMPLE_WINDOWS
from mlkv_model import MlkvModel

# Matrix products may round their inputs to bfloat16: half the time where the processor can do so.
TRAINING_PRECISION = "medium"


@dataclass(frozen=True)
class Recipe:
    steps: int
    batch_tokens: int
    length_shares: dict[int, float]  # sequence length: how often a batch is made of such sequences
    learning_rate: float  # the peak, after warmup_steps; a cosine to zero follows
    warmup_steps: int


def set_up(seed: int) -> None:
    # One thread, so that the same command gives the same model on machines of any size.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)


def sample_batch(ids: Tensor, recipe: Recipe) -> Tensor:
    """Random stretches of the text, [batch, length + 1], batch_tokens predictions in all."""
    shares = recipe.length_shares
    length = random.choices(list(shares), list(shares.values()))[0]
    starts = torch.randint(len(ids) - length, (recipe.batch_tokens // length,))
    return torch.stack([ids[start : start + length + 1] for start in starts])


def cross_entropy(model: MlkvModel, ids: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(
        model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction=reduction
    )


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    warmup = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    return warmup * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def make_optimizer(model: MlkvModel, learning_rate: float) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # norms and biases are not to shrink
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)


def optimise(model: MlkvModel, ids: Tensor, recipe: Recipe) -> Iterator[int]:
    """Trains the model on random stretches of ids; yields the number of each step that is done."""
    started = time.process_time()  # not the clock on the wall: the machine may be shared
    optimizer = make_optimizer(model, recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, recipe)
    )
    model.train()
    torch.set_float32_matmul_precision(TRAINING_PRECISION)
    for step in range(1, recipe.steps + 1):
        loss = cross_entropy(model, sample_batch(ids, recipe))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0:
            rate = step * recipe.batch_tokens / (time.process_time() - started)
            print(f"step {step} loss {loss.item():.3f} {rate:.0f} tokens/s", flush=True)
        yield step


@torch.no_grad()
def window_losses(model: MlkvModel, windows: list[list[int]]) -> list[float]:
    """The summed loss of each held-out window's predicted tokens: all but its first."""
    return [cross_entropy(model, torch.tensor([window]), "sum").item() for window in windows]


def evaluate(model: MlkvModel, windows: list[list[int]], dtype: torch.dtype) -> dict:
    """Held-out figures of the model as it will be written: with its weights rounded to dtype."""
    shipped = copy.deepcopy(model).eval()
    for parameter in shipped.parameters():
        parameter.data = parameter.data.to(dtype).float()
    training_precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    losses = window_losses(shipped, windows)
    torch.set_float32_matmul_precision(training_precision)
    predicted = [len(window) - 1 for window in windows]
    return {
        "loss": sum(losses) / sum(predicted),
        "windows": len(windows),
        "window_tokens": max(map(len, windows)),
        "predicted_tokens": sum(predicted),
        "sample_window_losses": [
            loss / count for loss, count in zip(losses, predicted, strict=True)
        ][:SAMPLE_WINDOWS],
    }
