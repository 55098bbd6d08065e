"""Model directories of the GPT-NeoX family: config.json, safetensors, tokenizer; read and written.

In a directory that says how many KV heads or layers it has, every layer has its own `query`, and
owners have a `key` and a `value`. Any other is a stock GPT-NeoX directory, as transformers reads
it: one `query_key_value` a layer, its rows ordered by head, then query, key, value.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlkv_model import Config, MlkvModel

Tensors = dict[str, Tensor]

FUSED, PARTS = "query_key_value", ("query", "key", "value")
SHARING_KEYS = ("kv_source", "num_key_value_layers", "num_key_value_heads")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def is_stock(config: Config) -> bool:
    return not any(key in config for key in SHARING_KEYS)


def split(tensors: Tensors, config: Config) -> Tensors:
    """query_key_value [heads * 3 * head_dim, ...] as query, key and value [heads * head_dim, ...]."""
    result = {}
    for name, tensor in tensors.items():
        if FUSED not in name:
            result[name] = tensor
            continue
        by_head = tensor.unflatten(0, (config["num_attention_heads"], 3, -1))
        for i, part in enumerate(PARTS):
            result[name.replace(FUSED, part)] = by_head[:, i].flatten(0, 1).contiguous()
    return result


def fuse(tensors: Tensors, config: Config) -> Tensors:
    """The inverse of split(), for a model in which every layer has all heads' keys and values."""
    result = {}
    for name, tensor in tensors.items():
        if ".attention.query." in name:
            parts = [tensors[name.replace("query", part)] for part in PARTS]
            by_head = [part.unflatten(0, (config["num_attention_heads"], -1)) for part in parts]
            result[name.replace("query", FUSED)] = torch.stack(by_head, 1).flatten(0, 2)
        elif ".attention.key." not in name and ".attention.value." not in name:
            result[name] = tensor
    return result


def read_config(directory: Path) -> Config:
    """config.json; a ValueError where MlkvModel would be another model than the directory's."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    expected = {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "use_key_value_mlp": False,
        "reuse_keys": "post_rope",
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path}: {key} is {config[key]!r}; these scripts know only {value!r}")
    return config


def read_tensors(directory: Path) -> Tensors:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory}: no *.safetensors file")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def load_checkpoint(directory: Path, dropout: float = 0.0) -> MlkvModel:
    """The directory's model in float32, ready to evaluate."""
    config = read_config(directory)
    model = MlkvModel(config, dropout)
    tensors = split(read_tensors(directory), config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_tensors(directory: Path, tensors: Tensors) -> None:
    unfinished = directory / "model.safetensors.part"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.chmod(0o644)  # safetensors makes its files private
    unfinished.rename(directory / "model.safetensors")  # a reader never sees half a file
