"""Writes tests/golden/convert/cases.json: what `polystrate convert` must make of some small models.

Two answers, neither of them the program's. `sequential` follows the published converter of
arXiv:2406.09297 step by step on a whole state dict in PyTorch: split the fused projections, pool
heads, pool layers pair by pair, grow the MLPs; new tensors are float32 there, and are brought back
to the stored dtype at the end. `mean` is one mean of everything, in NumPy.

The models are counter_weights.py's, so only hashes are kept: for each part of a layer one FNV-1a of
its tensors' bytes, by layer and name in ascending order.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from counter_weights import counter_weights
from demo_corpus import REPOSITORY
from golden_cases import Case, Shapes, make_config, tensor_shapes

MODEL_SEED = 2406_09297
State = dict[str, Tensor]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Conversion:
    name: str
    kv_source: list[int]
    kv_heads: int
    pool: str
    grow: bool
    dtype: str = "F32"
    layers: int = 12
    heads: int = 12
    stored_kv_heads: int = 12  # fewer than heads: query, key and value apart
    hidden: int = 48
    inner: int = 192
    others: dict = field(default_factory=dict)


def mlkv(layers: int, owners: int) -> list[int]:
    first = [0] + [int((i + 1) * (layers / owners)) for i in range(owners - 1)]
    return [max(owner for owner in first if owner <= layer) for layer in range(layers)]


# The published variants, by owners and KV heads.
VARIANTS = {
    "gqa_48": (12, 4),
    "mlkv_48": (4, 12),
    "mqa_12": (12, 1),
    "mlkv_12": (4, 3),
    "mlkv_6": (6, 1),
    "mlkv_4": (4, 1),
    "mlkv_2": (2, 1),
    "mlkv_1": (1, 1),
}
CASES = [
    Conversion(f"{name}_{pool}{'_grown' * grow}", mlkv(12, m), g, pool, grow)
    for name, (m, g) in VARIANTS.items()
    for pool, grow in (("sequential", False), ("sequential", True), ("mean", False))
] + [
    Conversion(f"{name}_{pool}_{dtype.lower()}", mlkv(12, m), g, pool, True, dtype)
    for name, (m, g) in {"mlkv_48": (4, 12), "mlkv_12": (4, 3)}.items()
    for pool in ("sequential", "mean")
    for dtype in ("F16", "BF16")
]
for pool in ("sequential", "mean"):
    CASES += [
        Conversion(f"interleaved_{pool}", [0, 1, 0, 1, 1, 0], 2, pool, False, layers=6, heads=8,
                   stored_kv_heads=4, hidden=64, inner=93),
        Conversion(f"cla3_{pool}_bf16", [0, 1, 1, 1], 6, pool, True, "BF16", layers=4, heads=6,
                   stored_kv_heads=6, hidden=96, inner=100),
    ]  # fmt: skip


def case_of(c: Conversion) -> Case:
    config = make_config(c.layers, c.heads, c.hidden, intermediate_size=c.inner, vocab_size=31)
    if c.stored_kv_heads != c.heads:
        config["num_key_value_heads"] = c.stored_kv_heads
    return Case(c.name, config, stock=c.stored_kv_heads == c.heads)


def make_state(case: Case, shapes: Shapes, dtype: str) -> State:
    return {
        name: torch.from_numpy(counter_weights(name, tuple(shape), MODEL_SEED)).to(DTYPES[dtype])
        for name, shape in shapes.items()
    }


def head_mean(heads: Tensor) -> Tensor:
    """Mean over dim 0 in float32, in ascending order, rounded to the dtype as torch.mean does.

    (torch.mean itself adds in the same order wherever its vectors fit the row; on rows of 4 it
    does not. test_torch_mean checks the rows of Pythia-160M.)
    """
    total = torch.zeros(heads.shape[1:], dtype=torch.float32)
    for head in heads:
        total = total + head.float()
    return (total / len(heads)).to(heads.dtype)


def test_torch_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    for dtype in DTYPES.values():
        for shape in ((12, 64, 768), (3, 64, 768), (4, 64, 768), (12, 64), (3, 64), (2, 64, 768)):
            heads = torch.randn(shape, generator=generator).to(dtype)
            assert torch.equal(torch.mean(heads, dim=0), head_mean(heads)), (dtype, shape)


def split(state: State, c: Conversion) -> None:
    head = c.hidden // c.heads
    for layer in range(c.layers):
        attention = f"gpt_neox.layers.{layer}.attention."
        for end in ("weight", "bias"):
            fused = state.pop(f"{attention}query_key_value.{end}", None)
            if fused is None:
                continue
            parts = fused.view(c.heads, 3, head, *fused.shape[1:])
            for i, part in enumerate(("query", "key", "value")):
                state[f"{attention}{part}.{end}"] = parts[:, i].reshape(-1, *fused.shape[1:])


def pool_heads(state: State, c: Conversion) -> None:
    if c.kv_heads == c.stored_kv_heads:
        return
    head = c.hidden // c.heads
    group = c.stored_kv_heads // c.kv_heads
    for name in [n for n in state if ".key." in n or ".value." in n]:
        heads = state[name].view(c.stored_kv_heads, head, *state[name].shape[1:])
        pooled = torch.zeros(c.kv_heads, *heads.shape[1:])
        for j in range(c.kv_heads):
            pooled[j] = head_mean(heads[j * group : (j + 1) * group])
        state[name] = pooled.reshape(-1, *heads.shape[2:])


def pool_layers(state: State, c: Conversion) -> None:
    for layer, owner in enumerate(c.kv_source):
        if layer == owner:
            continue
        for part in ("key", "value"):
            for end in ("weight", "bias"):
                names = [f"gpt_neox.layers.{i}.attention.{part}.{end}" for i in (layer, owner)]
                pair = torch.stack([state.pop(names[0]), state[names[1]]])
                state[names[1]] = torch.mean(pair, dim=0)


def pool_mean(state: State, c: Conversion) -> None:
    """All heads of all layers of a group at once, added in ascending order in float32."""
    head = c.hidden // c.heads
    group = c.stored_kv_heads // c.kv_heads
    for owner in sorted(set(c.kv_source)):
        layers = [layer for layer, source in enumerate(c.kv_source) if source == owner]
        for part in ("key", "value"):
            for end in ("weight", "bias"):
                names = [f"gpt_neox.layers.{i}.attention.{part}.{end}" for i in layers]
                stored = [state.pop(name) for name in names]
                dtype, columns = stored[0].dtype, stored[0].shape[1:]
                heads = np.stack([t.float().numpy() for t in stored])
                heads = heads.reshape(len(layers), c.kv_heads, group, head, *columns)
                total = np.zeros((c.kv_heads, head, *columns), dtype=np.float32)
                for layer in range(len(layers)):
                    for i in range(group):
                        total = total + heads[layer, :, i]
                mean = total / np.float32(len(layers) * group)
                state[names[0]] = torch.from_numpy(mean).to(dtype).reshape(-1, *columns)


def growth(c: Conversion) -> int:
    """As the published converter counts it; round() goes to the nearest even."""
    head = c.hidden // c.heads
    heads_lost = c.stored_kv_heads * c.layers - c.kv_heads * len(set(c.kv_source))
    lost = heads_lost * (c.hidden * head * 2 + head * 2)
    return int(round((lost // c.layers) / c.hidden)) // 2


def grow_mlp(state: State, c: Conversion) -> None:
    extra = growth(c)
    for name, tensor in state.items():
        if "dense_h_to_4h" in name:
            state[name] = torch.cat([tensor, tensor[:extra]])
        elif "dense_4h_to_h.weight" in name:
            state[name] = torch.cat([tensor, tensor[:, :extra]], dim=1)


def fnv1a64(tensors: list[Tensor]) -> str:
    value = 0xCBF29CE484222325
    for tensor in tensors:
        for byte in tensor.contiguous().view(torch.uint8).numpy().tobytes():
            value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


def hashes(state: State, layers: int) -> dict[str, str]:
    parts = {name: f"attention.{name}." for name in ("query", "key", "value")} | {"mlp": "mlp."}
    return {
        part: fnv1a64(
            [
                state[name]
                for layer in range(layers)
                for name in sorted(state)
                if name.startswith(f"gpt_neox.layers.{layer}.{prefix}")
            ]
        )
        for part, prefix in parts.items()
    }


def make_golden(c: Conversion) -> dict:
    case = case_of(c)
    shapes = tensor_shapes(case, list(range(c.layers)))
    state = make_state(case, shapes, c.dtype)
    split(state, c)
    if c.pool == "sequential":
        pool_heads(state, c)
        pool_layers(state, c)
    else:
        pool_mean(state, c)
    if c.grow:
        grow_mlp(state, c)
    state = {name: tensor.to(DTYPES[c.dtype]) for name, tensor in state.items()}
    return {
        "name": c.name,
        "layers": c.layers,
        "heads": c.heads,
        "stored_kv_heads": c.stored_kv_heads,
        "hidden_size": c.hidden,
        "intermediate_size": c.inner,
        "dtype": c.dtype,
        "kv_source": c.kv_source,
        "kv_heads": c.kv_heads,
        "pool": c.pool,
        "grow_mlp": c.grow,
        "new_intermediate_size": c.inner + (growth(c) if c.grow else 0),
        "num_tensors": len(state),
        "hashes": hashes(state, c.layers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests/golden/convert/cases.json")
    out = parser.parse_args().out
    out.parent.mkdir(exist_ok=True)
    test_torch_mean()
    lines = [json.dumps(make_golden(case), separators=(",", ":")) for case in CASES]
    seed = json.dumps(MODEL_SEED)
    out.write_text(f'{{"model_seed":{seed},"cases":[\n' + ",\n".join(lines) + "\n]}\n")
    print(f"{len(lines)} cases, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
