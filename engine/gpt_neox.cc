// GPT-NeoX (Black et al. 2022, arXiv:2204.06745): Pythia, and MLKV, which has query, key and value
// apart and may have none of the latter two in a layer.
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/architecture.h"
#include "engine/config_keys.h"
#include "engine/json.h"
#include "engine/model_config.h"
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

// A rotary setting as the first key that is there spells it: in rope_parameters (transformers 5),
// at the top level (the common name), at the top level (GPT-NeoX's own name).
absl::StatusOr<double> RotaryNumber(const JsonView& root, const JsonView* rope_parameters,
                                    std::string_view common_key, std::string_view neox_key,
                                    double otherwise) {
  if (rope_parameters != nullptr && rope_parameters->Has(common_key))
    return rope_parameters->GetDouble(common_key);
  if (root.Has(common_key)) return root.GetDouble(common_key);
  return root.GetDoubleOr(neox_key, otherwise);
}

// Scaled rotary embeddings (linear, dynamic, yarn, ...) would silently give wrong positions.
absl::Status CheckUnscaled(const JsonView& rope) {
  for (const std::string_view key : {"rope_type", "type"}) {
    if (!rope.Has(key)) continue;
    ASSIGN_OR_RETURN(const std::string type, rope.GetString(key));
    if (type != "default")
      return rope.Find(key)->Unexpected(key,
                                        "\"default\": scaled rotary embeddings are not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadRotary(const JsonView& root, ModelConfig* config) {
  std::optional<JsonView> parameters;
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!root.Has(key)) continue;
    ASSIGN_OR_RETURN(parameters, root.GetObject(key));
    RETURN_IF_ERROR(CheckUnscaled(*parameters));
  }
  const JsonView* rope = parameters.has_value() ? &*parameters : nullptr;
  ASSIGN_OR_RETURN(config->rope_base,
                   RotaryNumber(root, rope, "rope_theta", "rotary_emb_base", 10000.0));
  ASSIGN_OR_RETURN(const double share,
                   RotaryNumber(root, rope, "partial_rotary_factor", "rotary_pct", 0.25));
  if (!(config->rope_base > 0.0 && config->rope_base <= 1e30)) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": the rotary base (rotary_emb_base or rope_theta) is ",
                     config->rope_base, ", expected a number above 0 and at most 1e30"));
  }
  const auto error = [&](absl::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        root.document(), ": the rotary share (rotary_pct or partial_rotary_factor) is ", share,
        ", expected ", expected));
  };
  if (!(share >= 0.0 && share <= 1.0)) return error("a number from 0 to 1");
  config->rotary_dim = static_cast<int>(config->head_dim * share);
  if (config->rotary_dim % 2 != 0) {
    return error(absl::StrCat("one that makes an even number of the ", config->head_dim,
                              " dimensions of a head, not ", config->rotary_dim));
  }
  return absl::OkStatus();
}

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
  RETURN_IF_ERROR(ReadRotary(root, config));
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
  };
  return kArchitecture;
}

}  // namespace polystrate
