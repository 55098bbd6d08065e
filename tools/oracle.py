"""The slow truth: one full forward of a GPT-NeoX with any KV sharing map, float64, plain loops.

It shares no code with the model that train_demo.py trains, keeps no cache, and is checked against
Hugging Face transformers by make_golden.py wherever the two overlap (every layer owns its keys and
values).
"""

import math
from typing import Any

import torch
from torch import Tensor

Config = dict[str, Any]
Weights = dict[str, Tensor]

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: x.clamp(min=0),
}


def sharing_map(config: Config) -> list[int]:
    """kv_source: as the config lists it, else by MLKV's rule, else every layer owns."""
    layers = config["num_hidden_layers"]
    if "kv_source" in config:
        return config["kv_source"]
    owning = config.get("num_key_value_layers", layers)
    owners = {0} | {int(i * (layers / owning)) for i in range(1, owning)}
    source = []
    for layer in range(layers):
        source.append(layer if layer in owners else source[-1])
    return source


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def layer_norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return (
        centred / torch.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    )


def rotary(x: Tensor, config: Config) -> Tensor:
    """One head, [length, head_dim]: of the first n dimensions, j and j + n/2 turn together."""
    length, head_dim = x.shape
    n = int(head_dim * config["rotary_pct"])
    y = x.clone()
    for j in range(n // 2):
        angle = torch.arange(length, dtype=x.dtype) * config["rotary_emb_base"] ** (-2 * j / n)
        a, b = x[:, j], x[:, j + n // 2]
        y[:, j] = a * angle.cos() - b * angle.sin()
        y[:, j + n // 2] = b * angle.cos() + a * angle.sin()
    return y


def split_fused(weights: Weights, config: Config) -> Weights:
    """Stock checkpoints hold Q, K and V in one tensor, by head: [heads, 3, head_dim, hidden]."""
    heads = config["num_attention_heads"]
    split = {}
    for name, tensor in weights.items():
        if ".query_key_value." not in name:
            split[name] = tensor
            continue
        by_head = tensor.unflatten(0, (heads, 3, -1))
        for i, part in enumerate(("query", "key", "value")):
            split[name.replace("query_key_value", part)] = by_head[:, i].flatten(0, 1)
    return split


def keys_and_values(
    weights: Weights, attention: str, x: Tensor, config: Config
) -> tuple[Tensor, Tensor]:
    """An owner's keys, not rotated, and values, each [length, kv_heads * head_dim]."""
    if not config.get("use_key_value_mlp", False):
        return linear(weights, f"{attention}.key", x), linear(weights, f"{attention}.value", x)
    activation = ACTIVATIONS[config["hidden_act"]]
    key, value = (
        linear(
            weights,
            f"{attention}.{part}.dense_out",
            activation(linear(weights, f"{attention}.{part}.dense_in", x)),
        )
        for part in ("key", "value")
    )
    return key, value


def attend(query: Tensor, key: Tensor, value: Tensor, rotate_key: bool, config: Config) -> Tensor:
    """One layer's heads, one by one; query head h reads KV head h // (heads / kv_heads)."""
    length, hidden = query.shape
    heads = config["num_attention_heads"]
    head_dim = hidden // heads
    queries_per_kv = heads // (key.shape[1] // head_dim)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    outputs = []
    for head in range(heads):
        q = rotary(query[:, head * head_dim : (head + 1) * head_dim], config)
        kv = slice(head // queries_per_kv * head_dim, (head // queries_per_kv + 1) * head_dim)
        k = rotary(key[:, kv], config) if rotate_key else key[:, kv]
        scores = (q @ k.T / math.sqrt(head_dim)).masked_fill(future, -math.inf)
        outputs.append(scores.softmax(-1) @ value[:, kv])
    return torch.cat(outputs, dim=-1)


def mlp(weights: Weights, layer: str, x: Tensor, config: Config) -> Tensor:
    return linear(
        weights,
        f"{layer}.mlp.dense_4h_to_h",
        ACTIVATIONS[config["hidden_act"]](linear(weights, f"{layer}.mlp.dense_h_to_4h", x)),
    )


def logits(weights: Weights, config: Config, token_ids: list[int]) -> Tensor:
    """[length, vocab_size] in float64.

    A reuser rotates its own query. Under post_rope it reads its owner's rotated keys, under
    pre_rope the owner's keys before rotation; an owner always attends to its own keys rotated.
    """
    weights = split_fused({name: tensor.double() for name, tensor in weights.items()}, config)
    eps, source = config["layer_norm_eps"], sharing_map(config)
    post_rope = config.get("reuse_keys", "post_rope") == "post_rope"
    cache: dict[int, tuple[Tensor, Tensor]] = {}
    x = weights["gpt_neox.embed_in.weight"][token_ids]
    for i, owner in enumerate(source):
        layer = f"gpt_neox.layers.{i}"
        normed = layer_norm(weights, f"{layer}.input_layernorm", x, eps)
        if owner == i:
            cache[i] = keys_and_values(weights, f"{layer}.attention", normed, config)
        key, value = cache[owner]
        attended = attend(
            linear(weights, f"{layer}.attention.query", normed),
            key,
            value,
            owner == i or post_rope,
            config,
        )
        attended = linear(weights, f"{layer}.attention.dense", attended)
        mlp_input = x if config["use_parallel_residual"] else x + attended
        x = (
            x
            + attended
            + mlp(
                weights,
                layer,
                layer_norm(weights, f"{layer}.post_attention_layernorm", mlp_input, eps),
                config,
            )
        )
    x = layer_norm(weights, "gpt_neox.final_layer_norm", x, eps)
    head = "gpt_neox.embed_in.weight" if config["tie_word_embeddings"] else "embed_out.weight"
    return x @ weights[head].T
