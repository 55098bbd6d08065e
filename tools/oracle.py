"""The slow truth: one full forward of a GPT-NeoX or Llama with any KV sharing map, float64, plain
loops.

It shares no code with the models that other tools train, keeps no cache, and is checked against
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
    "silu": lambda x: x / (1 + torch.exp(-x)),
}
ACTIVATIONS["gelu_pytorch_tanh"] = ACTIVATIONS["gelu_new"]

NEOX_NAMES = {
    "embedding": "gpt_neox.embed_in",
    "layers": "gpt_neox.layers",
    "final_norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "layers": "model.layers",
    "final_norm": "model.norm",
    "head": "lm_head",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def is_neox(config: Config) -> bool:
    return config["model_type"] == "gpt_neox"


def sharing_map(config: Config) -> list[int]:
    """kv_source: as the config lists it, else by LCKV's string or MLKV's rule, else all own."""
    layers = config["num_hidden_layers"]
    if "kv_source" in config:
        return config["kv_source"]
    if isinstance(config.get("layer_types"), str):
        return [int(layer.rstrip("s")) for layer in config["layer_types"].split("_")]
    owning = config.get("num_key_value_layers", layers)
    owners = {0} | {int(i * (layers / owning)) for i in range(1, owning)}
    source = []
    for layer in range(layers):
        source.append(layer if layer in owners else source[-1])
    return source


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rms_norm(weight: Tensor, x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight


def norm(weights: Weights, name: str, x: Tensor, config: Config) -> Tensor:
    weight = weights[f"{name}.weight"]
    if not is_neox(config) and config.get("norm_type", "rms_norm") == "rms_norm":
        return rms_norm(weight, x, config["rms_norm_eps"])
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    normed = centred / torch.sqrt(variance + config.get("layer_norm_eps", 1e-5)) * weight
    return normed + weights[f"{name}.bias"] if f"{name}.bias" in weights else normed


def head_dim_of(config: Config) -> int:
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def yarn(frequencies: Tensor, base: float, rope: Config) -> tuple[Tensor, float]:
    """Peng et al. 2023: divided where few turns fit into the first context, kept where many do."""
    count = len(frequencies)
    factor, context = rope["factor"], rope["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return count * math.log(context / (2 * math.pi * turns)) / math.log(base)

    low, high = dimension(rope.get("beta_fast", 32)), dimension(rope.get("beta_slow", 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * count - 1)
    ramp = ((torch.arange(count).double() - low) / (high - low)).clamp(0, 1)
    scaled = frequencies / factor * ramp + frequencies * (1 - ramp)
    if "mscale" in rope:
        return scaled, (0.1 * rope["mscale"] * math.log(factor) + 1) / (
            0.1 * rope["mscale_all_dim"] * math.log(factor) + 1
        )
    return scaled, 0.1 * math.log(factor) + 1


def llama3(frequencies: Tensor, rope: Config) -> Tensor:
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * frequencies / rope["factor"] + kept * frequencies


def rotary_frequencies(config: Config) -> tuple[Tensor, float]:
    """Of the dimensions that turn, and what cosine and sine are multiplied by."""
    if is_neox(config):
        n, base = int(head_dim_of(config) * config["rotary_pct"]), config["rotary_emb_base"]
    else:
        n, base = head_dim_of(config), config["rope_theta"]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = rope.get("rope_theta", base)
    frequencies = float(base) ** (-2 * torch.arange(n // 2).double() / max(n, 1))
    match rope.get("rope_type", "default"):
        case "linear":
            return frequencies / rope["factor"], 1.0
        case "yarn":
            return yarn(frequencies, base, rope)
        case "llama3":
            return llama3(frequencies, rope), 1.0
    return frequencies, 1.0  # dynamic too: within max_position_embeddings it changes nothing


def rotary(x: Tensor, config: Config) -> Tensor:
    """One head, [length, head_dim]: of the first n dimensions, j and j + n/2 turn together."""
    frequencies, factor = rotary_frequencies(config)
    y = x.clone()
    for j, frequency in enumerate(frequencies):
        angle = torch.arange(x.shape[0], dtype=x.dtype) * frequency
        a, b = x[:, j], x[:, j + len(frequencies)]
        y[:, j] = factor * (a * angle.cos() - b * angle.sin())
        y[:, j + len(frequencies)] = factor * (b * angle.cos() + a * angle.sin())
    return y


def split_fused(weights: Weights, config: Config) -> Weights:
    """Stock GPT-NeoX holds Q, K and V in one tensor, by head: [heads, 3, head_dim, hidden]."""
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


def normed_heads(weights: Weights, name: str, x: Tensor, config: Config) -> Tensor:
    """Qwen3's norm of every query or key head; x itself where the checkpoint has none."""
    if f"{name}.weight" not in weights:
        return x
    heads = x.unflatten(1, (-1, head_dim_of(config)))
    return rms_norm(weights[f"{name}.weight"], heads, config["rms_norm_eps"]).flatten(1)


def keys_and_values(weights: Weights, layer: str, x: Tensor, config: Config) -> list[Tensor]:
    """An owner's keys, not rotated, and values, each [length, kv_heads * head_dim]."""
    names = NEOX_NAMES if is_neox(config) else LLAMA_NAMES
    parts = [f"{layer}.{names[part]}" for part in ("key", "value")]
    if config.get("use_key_value_mlp", False):
        activation = ACTIVATIONS[config["hidden_act"]]
        return [
            linear(weights, f"{part}.dense_out", activation(linear(weights, f"{part}.dense_in", x)))
            for part in parts
        ]
    key, value = (linear(weights, part, x) for part in parts)
    return [normed_heads(weights, f"{layer}.self_attn.k_norm", key, config), value]


def attend(query: Tensor, key: Tensor, value: Tensor, rotate_key: bool, config: Config) -> Tensor:
    """One layer's heads, one by one; query head h reads KV head h // (heads / kv_heads)."""
    length = query.shape[0]
    heads, head_dim = config["num_attention_heads"], head_dim_of(config)
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
    activation = ACTIVATIONS[config["hidden_act"]]
    if is_neox(config):
        inner = activation(linear(weights, f"{layer}.{NEOX_NAMES['up']}", x))
        return linear(weights, f"{layer}.{NEOX_NAMES['down']}", inner)
    gate = activation(linear(weights, f"{layer}.{LLAMA_NAMES['gate']}", x))
    up = linear(weights, f"{layer}.{LLAMA_NAMES['up']}", x)
    return linear(weights, f"{layer}.{LLAMA_NAMES['down']}", gate * up)


def logits(weights: Weights, config: Config, token_ids: list[int]) -> Tensor:
    """[length, vocab_size] in float64.

    A reuser rotates its own query. Under post_rope it reads its owner's rotated keys, under
    pre_rope the owner's keys before rotation; an owner always attends to its own keys rotated.
    """
    weights = split_fused({name: tensor.double() for name, tensor in weights.items()}, config)
    names = NEOX_NAMES if is_neox(config) else LLAMA_NAMES
    source = sharing_map(config)
    post_rope = config.get("reuse_keys", "post_rope") == "post_rope"
    kv_norm = "kv_layernorm" if config.get("separate_kv_norm", False) else "input_layernorm"
    cache: dict[int, list[Tensor]] = {}
    x = weights[f"{names['embedding']}.weight"][token_ids]
    for i, owner in enumerate(source):
        layer = f"{names['layers']}.{i}"
        if owner == i:
            normed = norm(weights, f"{layer}.{kv_norm}", x, config)
            cache[i] = keys_and_values(weights, layer, normed, config)
        key, value = cache[owner]
        normed = norm(weights, f"{layer}.input_layernorm", x, config)
        query = linear(weights, f"{layer}.{names['query']}", normed)
        query = normed_heads(weights, f"{layer}.self_attn.q_norm", query, config)
        attended = attend(query, key, value, owner == i or post_rope, config)
        attended = linear(weights, f"{layer}.{names['output']}", attended)
        parallel = is_neox(config) and config["use_parallel_residual"]
        mlp_input = x if parallel else x + attended
        normed = norm(weights, f"{layer}.post_attention_layernorm", mlp_input, config)
        x = x + attended + mlp(weights, layer, normed, config)
    x = norm(weights, names["final_norm"], x, config)
    head = names["embedding"] if config["tie_word_embeddings"] else names["head"]
    return x @ weights[f"{head}.weight"].T
