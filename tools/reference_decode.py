"""What the published MLKV code computes when it decodes through its cache: a defect, kept as such.

Its owners cache keys after rotation, but hand reusing layers the present tokens' keys before it. So
a reuser reads rotated keys of the past beside unrotated ones of the present, while in the full
forward that the checkpoints were trained with it reads none but unrotated ones. The engine has
neither rule's defect; tests hold it against these logits to show that they would notice.
"""

import math

import torch
from torch import Tensor

import oracle
from oracle import Config, Weights


def rotate_from(x: Tensor, begin: int, config: Config) -> Tensor:
    """Heads side by side, [rows, heads * head_dim], at positions begin, begin + 1, ..."""
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    padded = torch.cat([x.new_zeros(begin, x.shape[1]), x])
    heads = [oracle.rotary(head, config)[begin:] for head in padded.split(head_dim, dim=1)]
    return torch.cat(heads, dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, config: Config) -> Tensor:
    """The last rows of a sequence against all of it; nothing is rotated here."""
    heads = config["num_attention_heads"]
    head_dim = config["hidden_size"] // heads
    rows, length = query.shape[0], key.shape[0]
    future = torch.ones(rows, length, dtype=torch.bool).triu(length - rows + 1)
    keys, values = key.split(head_dim, dim=1), value.split(head_dim, dim=1)
    outputs = []
    for head, q in enumerate(query.split(head_dim, dim=1)):
        kv = head // (heads // len(keys))
        scores = (q @ keys[kv].T / math.sqrt(head_dim)).masked_fill(future, -math.inf)
        outputs.append(scores.softmax(-1) @ values[kv])
    return torch.cat(outputs, dim=-1)


def logits(weights: Weights, config: Config, token_ids: list[int], chunk: int) -> Tensor:
    """[length, vocab_size] in float64, `chunk` tokens at a time; all at once is a full forward."""
    assert config["use_parallel_residual"] and not config.get("use_key_value_mlp", False)
    weights = {name: tensor.double() for name, tensor in weights.items()}
    source = oracle.sharing_map(config)
    cache: dict[int, tuple[Tensor, Tensor]] = {}  # keys rotated, values
    outputs = []
    for begin in range(0, len(token_ids), chunk):
        x = weights["gpt_neox.embed_in.weight"][token_ids[begin : begin + chunk]]
        present: dict[int, Tensor] = {}  # keys not rotated
        for i, owner in enumerate(source):
            layer = f"gpt_neox.layers.{i}"
            normed = oracle.norm(weights, f"{layer}.input_layernorm", x, config)
            query = oracle.linear(weights, f"{layer}.attention.query", normed)
            query = rotate_from(query, begin, config)
            if owner == i:
                key, value = oracle.keys_and_values(weights, layer, normed, config)
                present[i] = key
                key = rotate_from(key, begin, config)
                if begin > 0:
                    key = torch.cat([cache[i][0], key])
                    value = torch.cat([cache[i][1], value])
                cache[i] = key, value
            else:
                key, value = cache[owner]
                key = torch.cat([key[:begin], present[owner]])
            attended = attend(query, key, value, config)
            normed = oracle.norm(weights, f"{layer}.post_attention_layernorm", x, config)
            x = (
                x
                + oracle.linear(weights, f"{layer}.attention.dense", attended)
                + oracle.mlp(weights, layer, normed, config)
            )
        x = oracle.norm(weights, "gpt_neox.final_layer_norm", x, config)
        outputs.append(x @ weights["embed_out.weight"].T)
    return torch.cat(outputs)
