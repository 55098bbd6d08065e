// GPT-NeoX (Black et al. 2022, arXiv:2204.06745): Pythia, and MLKV, which has query, key and value
// apart and may have none of the latter two in a layer.
#include "absl/strings/str_cat.h"
#include "engine/architecture.h"
#include "engine/config_keys.h"
#include "engine/json.h"
#include "engine/model_config.h"
#include "engine/rope_keys.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr absl::string_view kModelTypes[] = {"gpt_neox"};

constexpr TensorNames kTensors = {
    .embedding = "gpt_neox.embed_in.weight",
    .lm_head = "embed_out.weight",
    .final_norm = "gpt_neox.final_layer_norm",
    .layers = "gpt_neox.layers.",
    .input_norm = "input_layernorm",
    .post_attention_norm = "post_attention_layernorm",
    .query = "attention.query",
    .key = "attention.key",
    .value = "attention.value",
    .fused_qkv = "attention.query_key_value",
    .key_value_in = ".dense_in",
    .key_value_out = ".dense_out",
    .output = "attention.dense",
    .up = "mlp.dense_h_to_4h",
    .down = "mlp.dense_4h_to_h",
};

absl::Status ReadKeyValueMlp(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->use_key_value_mlp, root.GetBoolOr("use_key_value_mlp", false));
  if (!config->use_key_value_mlp) return absl::OkStatus();  // the size is then junk in real files
  ASSIGN_OR_RETURN(config->kv_intermediate_size,
                   SizeOr(root, "kv_intermediate_size", kMaxIntermediate));
  return absl::OkStatus();
}

absl::Status ReadConfig(const JsonView& root, ModelConfig* config) {
  if (int64_t{config->num_heads} * config->head_dim != config->hidden_size) {
    return root.Find("head_dim")
        ->Unexpected("head_dim", absl::StrCat(config->hidden_size / config->num_heads,
                                              ", hidden_size / num_attention_heads"));
  }
  RETURN_IF_ERROR(ReadRope(root, {"rotary_emb_base", "rotary_pct", 0.25}, config));
  RETURN_IF_ERROR(ReadKeyValueMlp(root, config));
  ASSIGN_OR_RETURN(config->norm_epsilon, EpsilonOr(root, "layer_norm_eps", 1e-5));
  ASSIGN_OR_RETURN(config->activation, ActivationOr(root, "hidden_act", "gelu"));
  ASSIGN_OR_RETURN(config->use_parallel_residual, root.GetBoolOr("use_parallel_residual", true));
  ASSIGN_OR_RETURN(config->qkv_bias, root.GetBoolOr("attention_bias", true));
  config->output_bias = config->qkv_bias;
  config->mlp_bias = true;
  return absl::OkStatus();
}

}  // namespace

const Architecture& GptNeoxArchitecture() {
  static constexpr Architecture kArchitecture = {
      .title = "GPT-NeoX, Pythia, MLKV",
      .model_types = kModelTypes,
      .tensors = kTensors,
      .read_config = ReadConfig,
      .key_rule_unknown = true,  // the published MLKV checkpoints are pre_rope and do not say so
  };
  return kArchitecture;
}

}  // namespace polystrate
