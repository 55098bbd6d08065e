// The Llama family (Touvron et al. 2023, arXiv:2302.13971): llama, mistral, qwen2, qwen3, which
// differ in biases, norms of heads and how they state a sliding window; and models of this shape
// whose layers share KV: CLA's (arXiv:2405.12981) by keys of our own, and LCKV's
// (arXiv:2410.14442).
//
// Our own keys:
//   norm_type         "rms_norm" (default) or "layer_norm", with layer_norm_eps and `norm_bias`
//                     (default true)
//   separate_kv_norm  true: an owner's K and V are projected from another norm of the layer's input
//                     than Q, layers.N.kv_layernorm
#include <algorithm>
#include <string>
#include <vector>

#include "engine/architecture.h"
#include "engine/config_keys.h"
#include "engine/json.h"
#include "engine/model_config.h"
#include "engine/rope_keys.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr absl::string_view kModelTypes[] = {"llama", "mistral", "qwen2", "qwen3", "lckv-llama"};

constexpr TensorNames kTensors = {
    .embedding = "model.embed_tokens.weight",
    .lm_head = "lm_head.weight",
    .final_norm = "model.norm",
    .layers = "model.layers.",
    .input_norm = "input_layernorm",
    .post_attention_norm = "post_attention_layernorm",
    .kv_norm = "kv_layernorm",
    .query = "self_attn.q_proj",
    .key = "self_attn.k_proj",
    .value = "self_attn.v_proj",
    .query_norm = "self_attn.q_norm",
    .key_norm = "self_attn.k_norm",
    .output = "self_attn.o_proj",
    .gate = "mlp.gate_proj",
    .up = "mlp.up_proj",
    .down = "mlp.down_proj",
};

absl::Status ReadNorms(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(const std::string norm, root.GetStringOr("norm_type", "rms_norm"));
  if (norm == "rms_norm") {
    config->norm = NormKind::kRmsNorm;
    config->norm_bias = false;
    ASSIGN_OR_RETURN(config->norm_epsilon, EpsilonOr(root, "rms_norm_eps", 1e-6));
  } else if (norm == "layer_norm") {
    config->norm = NormKind::kLayerNorm;
    ASSIGN_OR_RETURN(config->norm_bias, root.GetBoolOr("norm_bias", true));
    ASSIGN_OR_RETURN(config->norm_epsilon, EpsilonOr(root, "layer_norm_eps", 1e-5));
  } else {
    return root.Find("norm_type")->Unexpected("norm_type", "\"rms_norm\" or \"layer_norm\"");
  }
  ASSIGN_OR_RETURN(config->separate_kv_norm, root.GetBoolOr("separate_kv_norm", false));
  return absl::OkStatus();
}

absl::Status ReadBiases(const JsonView& root, const std::string& type, ModelConfig* config) {
  // Mistral and Qwen2 have no such keys.
  ASSIGN_OR_RETURN(bool attention, root.GetBoolOr("attention_bias", false));
  ASSIGN_OR_RETURN(bool mlp, root.GetBoolOr("mlp_bias", false));
  config->qkv_bias = type == "qwen2" || (type != "mistral" && attention);
  config->output_bias = type != "qwen2" && type != "mistral" && attention;
  config->mlp_bias = (type == "llama" || type == "lckv-llama") && mlp;
  return absl::OkStatus();
}

// Which layers a qwen's window is for: by `layer_types`, a list of strings, or else from
// max_window_layers on.
absl::StatusOr<bool> SomeLayerSlides(const JsonView& root, int num_layers) {
  if (root.Has("layer_types") && root.Find("layer_types")->IsArray()) {
    for (const JsonView& layer : root.Find("layer_types")->Elements()) {
      ASSIGN_OR_RETURN(const std::string_view kind, layer.AsString("layer_types"));
      if (kind == "sliding_attention") return true;
      if (kind != "full_attention") {
        return layer.Unexpected("layer_types", "\"full_attention\" or \"sliding_attention\"");
      }
    }
    return false;
  }
  ASSIGN_OR_RETURN(const int64_t first, root.GetIntOr("max_window_layers", 28));
  return first < num_layers;
}

// LCKV's layer_types, a string, marks layers with an 's'.
bool MarksSlidingLayers(const JsonView& root) {
  if (!root.Has("layer_types") || !root.Find("layer_types")->IsString()) return false;
  return root.GetString("layer_types")->find('s') != std::string::npos;
}

absl::Status ReadSlidingWindow(const JsonView& root, const std::string& type, ModelConfig* config) {
  if (type == "llama" || type == "lckv-llama") {
    if (!MarksSlidingLayers(root)) return absl::OkStatus();
    ASSIGN_OR_RETURN(config->sliding_window, SizeOr(root, "sliding_window", kMaxPositions));
    return absl::OkStatus();
  }
  if (type == "qwen2" || type == "qwen3") {
    ASSIGN_OR_RETURN(const bool used, root.GetBoolOr("use_sliding_window", false));
    ASSIGN_OR_RETURN(const bool slides, SomeLayerSlides(root, config->num_layers));
    if (!used || !slides) return absl::OkStatus();
  }
  // null is no window; where the key is absent, transformers takes 4096.
  if (root.Find("sliding_window").has_value() && !root.Has("sliding_window"))
    return absl::OkStatus();
  ASSIGN_OR_RETURN(config->sliding_window, SizeOr(root, "sliding_window", kMaxPositions, 4096));
  return absl::OkStatus();
}

absl::Status ReadConfig(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(const std::string type, root.GetString("model_type"));
  if (type == "qwen3" && !root.Has("head_dim")) config->head_dim = 128;
  config->use_parallel_residual = false;
  config->gated_mlp = true;
  config->qk_norm = type == "qwen3";
  RETURN_IF_ERROR(ReadNorms(root, config));
  RETURN_IF_ERROR(ReadBiases(root, type, config));
  RETURN_IF_ERROR(ReadSlidingWindow(root, type, config));
  ASSIGN_OR_RETURN(config->activation, ActivationOr(root, "hidden_act", "silu"));
  RETURN_IF_ERROR(ReadRope(root, {"rope_theta", "partial_rotary_factor", 1.0}, config));
  if (config->rotary_dim != config->head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        root.document(), ": partial_rotary_factor leaves ", config->rotary_dim, " of the ",
        config->head_dim, " dimensions of a head; expected 1, as ", type, " rotates whole heads"));
  }
  return absl::OkStatus();
}

}  // namespace

const Architecture& LlamaArchitecture() {
  static constexpr Architecture kArchitecture = {
      .title = "the Llama family",
      .model_types = kModelTypes,
      .tensors = kTensors,
      .read_config = ReadConfig,
  };
  return kArchitecture;
}

}  // namespace polystrate
