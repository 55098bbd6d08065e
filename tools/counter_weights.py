"""Tensors of any shape from a counter-based generator, the same to the last bit in Python and C++.

Golden tests need checkpoints, but only the logits are worth storing: both sides make the weights.
An element depends on the tensor's name, its flat row-major index i and the model's seed alone, so
any part of a tensor can be made by itself. All integers are unsigned, 64 bits, and wrap:

    seed64      = fnv1a64(bytes of name) xor model_seed
    x           = splitmix64(seed64 + i * 0x9E3779B97F4A7C15)
    u           = x >> 40                                            24 bits
    value       = float32(offset + scale * (2 * (u / 2^24) - 1))     in float64, rounded once

    fnv1a64:      h = 0xCBF29CE484222325; for each byte: h = (h xor byte) * 0x100000001B3
    splitmix64:   z += 0x9E3779B97F4A7C15
                  z = (z xor (z >> 30)) * 0xBF58476D1CE4E5B9
                  z = (z xor (z >> 27)) * 0x94D049BB133111EB
                  result z xor (z >> 31)

| tensor, the first row that fits                              | offset | scale                |
|--------------------------------------------------------------|--------|----------------------|
| name ends with ".bias"                                       | 0      | 0.1                  |
| name ends with "norm.weight"                                 | 1      | 0.1                  |
| name ends with "embed_in.weight" or "embed_tokens.weight"    | 0      | 1                    |
| any other [out, in]: projections, MLP, LM head               | 0      | gain * sqrt(3 / in)  |

sqrt(3 / in) gives a matrix entries of variance 1 / in, so that what passes through it keeps its
size. `model_seed` and `gain` are the golden's `weights`; `scale` is (gain * sqrt(3.0 / in)) in
float64, in this order.

With model_seed 240609297, `gpt_neox.embed_in.weight` begins 0x1.b974p-1, 0x1.f4d89p-3, and
`gpt_neox.final_layer_norm.weight` 0x1.03cce6p+0, 0x1.03f8fcp+0.
"""

import math

import numpy as np

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)


def fnv1a64(name: str) -> int:
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def splitmix64(z: np.ndarray) -> np.ndarray:
    z = z + GOLDEN_RATIO
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def offset_and_scale(name: str, shape: tuple[int, ...], gain: float) -> tuple[float, float]:
    if name.endswith(".bias"):
        return 0.0, 0.1
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if name.endswith(("embed_in.weight", "embed_tokens.weight")):
        return 0.0, 1.0
    return 0.0, gain * math.sqrt(3.0 / shape[1])


def counter_weights(
    name: str, shape: tuple[int, ...], model_seed: int, gain: float = 1.0
) -> np.ndarray:
    """The float32 tensor `name` of `shape`."""
    offset, scale = offset_and_scale(name, shape, gain)
    index = np.arange(math.prod(shape), dtype=np.uint64)
    random = splitmix64(np.uint64(fnv1a64(name) ^ model_seed) + index * GOLDEN_RATIO)
    unit = (random >> np.uint64(40)).astype(np.float64) / 2**24
    return (offset + scale * (2 * unit - 1)).astype(np.float32).reshape(shape)
