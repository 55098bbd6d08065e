"""The Llama family's checkpoints of the golden logits, as golden_cases.py has GPT-NeoX's."""

from typing import Any

from golden_cases import Case, Config, Shapes


def make_config(model_type: str, layers: int, heads: int, hidden: int, **others: Any) -> Config:
    return {
        "model_type": model_type,
        "vocab_size": 97,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 93,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
        "rope_theta": 10000.0,
    } | others


def stock(
    name: str, model_type: str, shape: tuple[int, int, int], length: int = 24, **others: Any
) -> Case:
    return Case(name, make_config(model_type, *shape, **others), stock=True, length=length)


def scaled(name: str, rope_type: str, **others: Any) -> Case:
    """Longer than the first training's 32 tokens, so that the scaling shows."""
    rope = {"rope_type": rope_type, "factor": 4.0} | others
    return stock(
        name, "llama", (2, 4, 64), length=130, num_key_value_heads=2, rope_scaling=rope
    )


def both_rules(
    name: str, model_type: str, shape: tuple[int, int, int], length: int = 24, **others: Any
) -> list[Case]:
    return [
        Case(
            f"{name}_{rule}",
            make_config(model_type, *shape, reuse_keys=rule, **others),
            stock=False,
            length=length,
        )
        for rule in ("post_rope", "pre_rope")
    ]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Shapes are (layers, heads, hidden). Those of real models are not tied as they are: with random
# weights a tied head finds little but the token it came from.
# fmt: off
STOCK = [
    stock("llama_mha", "llama", (2, 3, 48)),
    stock("llama_gqa_biases_tied", "llama", (3, 4, 64), num_key_value_heads=2, attention_bias=True,
          mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-3),
    stock("llama_mqa_head_dim_46", "llama", (2, 3, 48), num_key_value_heads=1, head_dim=46,
          hidden_act="gelu_pytorch_tanh", rope_theta=500.0, length=40),
    scaled("llama_linear", "linear"),
    scaled("llama_dynamic", "dynamic"),
    scaled("llama_yarn", "yarn", factor=8.0, original_max_position_embeddings=32),
    scaled("llama_yarn_mscale", "yarn", factor=8.0, original_max_position_embeddings=32,
           beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=1.3, truncate=False),
    scaled("llama_llama3", "llama3", original_max_position_embeddings=32, low_freq_factor=1.0,
           high_freq_factor=4.0),
    stock("mistral_head_dim_24", "mistral", (2, 6, 96), num_key_value_heads=3, head_dim=24,
          hidden_act="gelu", sliding_window=None, length=40),
    stock("qwen2_tied", "qwen2", (2, 4, 64), num_key_value_heads=2, tie_word_embeddings=True,
          rope_theta=1e6),
    # As transformers 5 writes it.
    stock("qwen3_version5", "qwen3", (3, 4, 48), num_key_value_heads=2, head_dim=32, length=40,
          rope_parameters={"rope_type": "default", "rope_theta": 1e6}, dtype="float32",
          layer_types=["full_attention"] * 3, use_sliding_window=False, sliding_window=None),
    stock("llama_3_2_1b_shape", "llama", (2, 32, 2048), num_key_value_heads=8, head_dim=64,
          intermediate_size=8192, vocab_size=2000, max_position_embeddings=131072,
          rope_theta=500000.0, rope_scaling=LLAMA3, rms_norm_eps=1e-5),
    stock("qwen3_0_6b_shape", "qwen3", (2, 16, 1024), num_key_value_heads=8, head_dim=128,
          intermediate_size=3072, vocab_size=2000, max_position_embeddings=40960, rope_theta=1e6),
]
SHARED = [
    *both_rules("cla2_kv_norm", "llama", (4, 4, 64), num_key_value_heads=2,
                kv_source=[0, 0, 2, 2], separate_kv_norm=True),
    *both_rules("cla3_layer_norm_head_dim_46", "llama", (4, 3, 136), num_key_value_heads=1,
                head_dim=46, kv_source=[0, 1, 1, 1], separate_kv_norm=True,
                norm_type="layer_norm", layer_norm_eps=1e-3),
    *both_rules("cla2_layer_norm_no_bias", "llama", (4, 4, 48), num_key_value_heads=4,
                kv_source=[0, 0, 2, 2], norm_type="layer_norm", norm_bias=False),
    *both_rules("lckv_string", "lckv-llama", (5, 4, 64), num_key_value_heads=2,
                layer_types="0_1s_1s_0_4", sliding_window=200),
    *both_rules("qwen3_shared_yarn", "qwen3", (6, 4, 64), num_key_value_heads=2, head_dim=32,
                kv_source=[0, 1, 0, 1, 1, 0], separate_kv_norm=True, length=130,
                rope_scaling={"rope_type": "yarn", "factor": 4.0,
                              "original_max_position_embeddings": 64}),
    *both_rules("qwen2_mlkv", "qwen2", (5, 6, 48), num_key_value_heads=2, num_key_value_layers=3,
                length=40),
]
# fmt: on
CASES = STOCK + SHARED


def norm_shapes(name: str, size: int, config: Config) -> Shapes:
    shapes: Shapes = {f"{name}.weight": [size]}
    if config.get("norm_type") == "layer_norm" and config.get("norm_bias", True):
        shapes[f"{name}.bias"] = [size]
    return shapes


def layer_shapes(config: Config, owner: bool) -> Shapes:
    """Every tensor of one layer, named from the layer on. Linear layers are [out, in]."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    query_size = config["num_attention_heads"] * head_dim
    kv_size = config["num_key_value_heads"] * head_dim
    qwen2 = config["model_type"] == "qwen2"
    attention_bias = config.get("attention_bias", False)
    linears = {"self_attn.q_proj": ([query_size, hidden], attention_bias or qwen2)}
    if owner:
        for part in ("k_proj", "v_proj"):
            linears[f"self_attn.{part}"] = ([kv_size, hidden], attention_bias or qwen2)
    linears["self_attn.o_proj"] = ([hidden, query_size], attention_bias)
    mlp_bias = config.get("mlp_bias", False)
    linears["mlp.gate_proj"] = linears["mlp.up_proj"] = ([inner, hidden], mlp_bias)
    linears["mlp.down_proj"] = ([hidden, inner], mlp_bias)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if owner and config.get("separate_kv_norm", False):
        norms.append("kv_layernorm")
    shapes: Shapes = {}
    for norm in norms:
        shapes |= norm_shapes(norm, hidden, config)
    if config["model_type"] == "qwen3":
        shapes["self_attn.q_norm.weight"] = [head_dim]
        if owner:
            shapes["self_attn.k_norm.weight"] = [head_dim]
    for name, (shape, bias) in linears.items():
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]
    return shapes


def tensor_shapes(config: Config, source: list[int]) -> Shapes:
    """Every tensor the checkpoint must contain."""
    vocab, hidden = config["vocab_size"], config["hidden_size"]
    shapes: Shapes = {"model.embed_tokens.weight": [vocab, hidden]}
    for layer, owner in enumerate(source):
        shapes |= {
            f"model.layers.{layer}.{name}": shape
            for name, shape in layer_shapes(config, owner == layer).items()
        }
    shapes |= norm_shapes("model.norm", hidden, config)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [vocab, hidden]
    return shapes
