"""A trainable GPT-NeoX decoder whose KV heads run through several layers (MLKV, arXiv 2406.09297).

Any sharing map will do: MLKV's, CLA's, or a `kv_source` list in the config. Module names are chosen
so that `state_dict()` is, name for name, the checkpoint: `gpt_neox.layers.3.attention.key.weight`
and so on. A layer that reuses another layer's cache has no `key` and `value` at all.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Config = dict[str, Any]

LONG = 512  # tokens from which on the fused attention is the faster one


def kv_source(config: Config) -> list[int]:
    """The layer whose keys and values each layer reads; by MLKV's rule the nearest owner below."""
    if "kv_source" in config:
        return list(config["kv_source"])
    layers = config["num_hidden_layers"]
    owning = config.get("num_key_value_layers", layers)
    # In floating point, then truncated: integer division disagrees for some pairs, as (30, 22).
    owners = [0] + [int((i + 1) * (layers / owning)) for i in range(owning - 1)]
    return [max(owner for owner in owners if owner <= layer) for layer in range(layers)]


def rotary_tables(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [length, rotary_dims / 2], of position times frequency."""
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    rotary_dims = int(head_dim * config["rotary_pct"])
    frequency = config["rotary_emb_base"] ** (-torch.arange(0, rotary_dims, 2) / rotary_dims)
    angle = torch.arange(length)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns x [batch, heads, length, head_dim] in pairs (j, j + rotary_dims / 2)."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of queries [batch, heads, length, head_dim] over as many or fewer KV heads."""
    length = query.shape[2]
    if torch.get_float32_matmul_precision() != "medium" or length > LONG:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    # Where products may round their inputs to bfloat16, plain ones train in a third of the time.
    share = query.shape[1] // key.shape[1]
    query, key, value = (x.bfloat16() for x in (query * query.shape[-1] ** -0.5, key, value))
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    future = torch.full((length, length), -math.inf, dtype=query.dtype).triu(1)
    weights = torch.softmax(query @ key.transpose(-1, -2) + future, dim=-1)
    return (weights @ value).float()


class Attention(nn.Module):
    def __init__(self, config: Config, owner: bool) -> None:
        super().__init__()
        hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config.get("num_key_value_heads", self.heads)
        self.head_dim = hidden // self.heads
        self.owner = owner
        self.query = nn.Linear(hidden, hidden)
        if owner:
            self.key = nn.Linear(hidden, self.kv_heads * self.head_dim)
            self.value = nn.Linear(hidden, self.kv_heads * self.head_dim)
        self.dense = nn.Linear(hidden, hidden)

    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.head_dim)).transpose(1, 2)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attends over the layer's own keys and values, or its owner's with the keys rotated."""
        if self.owner:
            key = rotate(self.split_heads(self.key(x), self.kv_heads), cos, sin)
            shared = key, self.split_heads(self.value(x), self.kv_heads)
        query = rotate(self.split_heads(self.query(x), self.heads), cos, sin)
        mixed = attend(query, *shared)
        return self.dense(mixed.transpose(1, 2).flatten(2)), shared


class Mlp(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config["hidden_size"], config["intermediate_size"])
        self.dense_4h_to_h = nn.Linear(config["intermediate_size"], config["hidden_size"])

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x)))


class Layer(nn.Module):
    def __init__(self, config: Config, owner: bool, dropout: float) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.input_layernorm = nn.LayerNorm(hidden, eps)
        self.post_attention_layernorm = nn.LayerNorm(hidden, eps)
        self.attention = Attention(config, owner)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attended, shared = self.attention(self.input_layernorm(x), cos, sin, shared)
        # Parallel residual: both branches read the same x, and one dropout serves their sum.
        return x + self.dropout(attended + self.mlp(self.post_attention_layernorm(x))), shared


class Trunk(nn.Module):
    def __init__(self, config: Config, dropout: float) -> None:
        super().__init__()
        self.embed_in = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.dropout = nn.Dropout(dropout)
        self.source = kv_source(config)
        self.layers = nn.ModuleList(
            Layer(config, source == i, dropout) for i, source in enumerate(self.source)
        )
        self.final_layer_norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])


class MlkvModel(nn.Module):
    """Logits [batch, length, vocab_size] of token ids [batch, length]."""

    def __init__(self, config: Config, dropout: float = 0.0) -> None:
        super().__init__()
        self.gpt_neox = Trunk(config, dropout)
        self.embed_out = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        cos, sin = rotary_tables(config, config["max_position_embeddings"])
        # Not persistent: a checkpoint holds weights only.
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        cos, sin = self.cos[: token_ids.shape[1]], self.sin[: token_ids.shape[1]]
        x = self.gpt_neox.dropout(self.gpt_neox.embed_in(token_ids))
        cache: dict[int, tuple[Tensor, Tensor]] = {}
        for i, layer in enumerate(self.gpt_neox.layers):
            x, cache[i] = layer(x, cos, sin, cache.get(self.gpt_neox.source[i]))
        return self.embed_out(self.gpt_neox.final_layer_norm(x))


def initialise(model: MlkvModel, config: Config) -> None:
    """Normal(0, initializer_range), and less where a layer adds to the residual stream."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            adds_to_residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
            scale = (2 * config["num_hidden_layers"]) ** -0.5 if adds_to_residual else 1.0
            nn.init.normal_(parameter, std=config["initializer_range"] * scale)
        elif name.endswith(".bias"):
            nn.init.zeros_(parameter)
