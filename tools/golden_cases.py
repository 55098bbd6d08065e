"""GPT-NeoX's checkpoints of the golden logits: what each varies, and the tensors it needs."""

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Case:
    name: str
    config: Config
    stock: bool  # transformers can load it as well
    length: int = 24
    gain: float = 1.0


def make_config(layers: int, heads: int, hidden: int, **others: Any) -> Config:
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 97,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 93,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 256,
        "use_parallel_residual": True,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    } | others


def stock(name: str, shape: tuple[int, int, int], length: int = 24, **others: Any) -> Case:
    return Case(name, make_config(*shape, **others), stock=True, length=length)


def shared(name: str, shape: tuple[int, int, int], g: int, length: int = 24, **others: Any) -> Case:
    """g KV heads, owned as `others` says (num_key_value_layers, kv_source), else by all layers."""
    if "kv_source" in others:
        others["num_key_value_layers"] = len(set(others["kv_source"]))
    config = make_config(*shape, num_key_value_heads=g, **others)
    return Case(name, config, stock=False, length=length)


def both_rules(name: str, shape: tuple[int, int, int], g: int, **others: Any) -> list[Case]:
    rules = ("post_rope", "pre_rope")
    return [shared(f"{name}_{rule}", shape, g, reuse_keys=rule, **others) for rule in rules]


# Shapes are (layers, heads, hidden).
# fmt: off
STOCK = [
    stock("neox_parallel", (2, 3, 48)),
    stock("neox_sequential", (3, 4, 64), rotary_pct=0.5, vocab_size=101, intermediate_size=128,
          use_parallel_residual=False),
    stock("neox_full_rotary", (2, 6, 96), rotary_pct=1.0, rotary_emb_base=500),
    stock("neox_twelve_heads", (4, 12, 96), length=40, layer_norm_eps=1e-3),
    stock("neox_head_dim_24", (2, 3, 72), length=130, intermediate_size=7),
    stock("neox_no_bias", (2, 4, 48), rotary_pct=0.5, attention_bias=False, hidden_act="relu"),
    stock("neox_tied_gelu_new", (2, 4, 64), tie_word_embeddings=True, hidden_act="gelu_new",
          use_parallel_residual=False),
    stock("neox_pythia_160m_shape", (2, 12, 768), intermediate_size=3072, vocab_size=50304,
          max_position_embeddings=2048),
]
SHARED = [
    shared("gqa", (3, 4, 64), 2, rotary_pct=0.5),
    shared("mqa_sequential", (2, 6, 96), 1, use_parallel_residual=False),
    *both_rules("mlkv_l4_m2_g1", (4, 4, 64), 1, num_key_value_layers=2, rotary_pct=0.5),
    *both_rules("mlkv_l5_m3_g2", (5, 4, 64), 2, num_key_value_layers=3, rotary_pct=1.0, length=40),
    *both_rules("mlkv_l6_m1_g1", (6, 3, 48), 1, num_key_value_layers=1, rotary_pct=0.5),
    *both_rules("mlkv_l6_m4_g3_twelve_heads", (6, 12, 96), 3, num_key_value_layers=4,
                rotary_pct=0.5, length=130),
    *both_rules("mlkv_sequential", (4, 4, 48), 2, num_key_value_layers=2, rotary_pct=0.5,
                use_parallel_residual=False),
    *both_rules("mlkv_all_heads", (4, 6, 96), 6, num_key_value_layers=2, hidden_act="gelu_new"),
    *both_rules("mlkv_key_value_mlp", (4, 4, 64), 2, num_key_value_layers=2, rotary_pct=0.5,
                use_key_value_mlp=True, kv_intermediate_size=37),
    *both_rules("source_cla3_remainder_first", (10, 3, 48), 1, rotary_pct=0.5,
                kv_source=[0, 1, 1, 1, 4, 4, 4, 7, 7, 7]),
    *both_rules("source_keep_ends", (8, 4, 48), 2, rotary_pct=0.5,
                kv_source=[0, 1, 1, 3, 3, 5, 5, 7]),
    *both_rules("source_dense_front", (8, 4, 48), 1, rotary_pct=0.5,
                kv_source=[0, 1, 2, 3, 3, 3, 3, 7]),
    *both_rules("source_interleaved", (6, 4, 64), 2, rotary_pct=1.0,
                kv_source=[0, 1, 0, 1, 1, 0]),
    *both_rules("mlkv_160m_shape", (4, 12, 768), 3, num_key_value_layers=2, intermediate_size=3777,
                vocab_size=2000, max_position_embeddings=2048),
]
# fmt: on
CASES = STOCK + SHARED


def layer_shapes(case: Case, owner: bool) -> Shapes:
    """Every tensor of one layer, named from the layer on. Linear layers are [out, in]."""
    config = case.config
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    linears = {"mlp.dense_h_to_4h": [inner, hidden], "mlp.dense_4h_to_h": [hidden, inner]}
    attention = {"dense": [hidden, hidden]}
    if case.stock:  # fused
        attention["query_key_value"] = [3 * hidden, hidden]
    else:
        attention["query"] = [hidden, hidden]
        if owner:
            attention |= key_value_shapes(config)
    shapes = {
        f"{norm}_layernorm.{part}": [hidden]
        for norm in ("input", "post_attention")
        for part in ("weight", "bias")
    }
    for name, shape in attention.items():
        shapes[f"attention.{name}.weight"] = shape
        if config.get("attention_bias", True):
            shapes[f"attention.{name}.bias"] = shape[:1]
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def key_value_shapes(config: Config) -> Shapes:
    hidden = config["hidden_size"]
    kv_size = config["num_key_value_heads"] * hidden // config["num_attention_heads"]
    if not config.get("use_key_value_mlp", False):
        return {"key": [kv_size, hidden], "value": [kv_size, hidden]}
    inner = config["kv_intermediate_size"]
    return {
        f"{part}.{half}": shape
        for part in ("key", "value")
        for half, shape in (("dense_in", [inner, hidden]), ("dense_out", [kv_size, inner]))
    }


def tensor_shapes(case: Case, source: list[int]) -> Shapes:
    """Every tensor the checkpoint must contain."""
    vocab, hidden = case.config["vocab_size"], case.config["hidden_size"]
    shapes: Shapes = {"gpt_neox.embed_in.weight": [vocab, hidden]}
    for layer, owner in enumerate(source):
        shapes |= {
            f"gpt_neox.layers.{layer}.{name}": shape
            for name, shape in layer_shapes(case, owner == layer).items()
        }
    shapes |= {
        "gpt_neox.final_layer_norm.weight": [hidden],
        "gpt_neox.final_layer_norm.bias": [hidden],
    }
    if not case.config["tie_word_embeddings"]:
        shapes["embed_out.weight"] = [vocab, hidden]
    return shapes
