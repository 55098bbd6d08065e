#include "engine/model_config.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/architecture.h"
#include "engine/config_keys.h"
#include "engine/json.h"
#include "engine/sharing_keys.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

// head_dim may be any where config.json states it; hidden_size / num_attention_heads otherwise.
absl::StatusOr<int64_t> HeadDim(const JsonView& root, const ModelConfig& config) {
  if (root.Has("head_dim")) return SizeOr(root, "head_dim", kMaxHidden / config.num_heads);
  if (config.hidden_size % config.num_heads == 0) return config.hidden_size / config.num_heads;
  return root.Find("num_attention_heads")
      ->Unexpected("num_attention_heads",
                   absl::StrCat("a divisor of hidden_size, which is ", config.hidden_size,
                                ", or a head_dim beside it"));
}

absl::Status ReadSizes(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->vocab_size, SizeOr(root, "vocab_size", kMaxVocab));
  ASSIGN_OR_RETURN(config->hidden_size, SizeOr(root, "hidden_size", kMaxHidden));
  ASSIGN_OR_RETURN(const int64_t num_layers, SizeOr(root, "num_hidden_layers", kMaxLayers));
  ASSIGN_OR_RETURN(const int64_t num_heads,
                   SizeOr(root, "num_attention_heads", config->hidden_size));
  config->num_layers = static_cast<int>(num_layers);
  config->num_heads = static_cast<int>(num_heads);
  ASSIGN_OR_RETURN(const int64_t head_dim, HeadDim(root, *config));
  config->head_dim = static_cast<int>(head_dim);
  // Published stock configs have no such key, and the MLKV class's own default, 64, fits no
  // published model: absent means all.
  ASSIGN_OR_RETURN(const int64_t kv_heads, SizeOr(root, "num_key_value_heads", num_heads,
                                                  /*otherwise=*/num_heads));
  if (num_heads % kv_heads != 0) {
    return root.Find("num_key_value_heads")
        ->Unexpected("num_key_value_heads",
                     absl::StrCat("a divisor of num_attention_heads, which is ", num_heads));
  }
  config->num_kv_heads = static_cast<int>(kv_heads);
  ASSIGN_OR_RETURN(config->intermediate_size, SizeOr(root, "intermediate_size", kMaxIntermediate));
  ASSIGN_OR_RETURN(config->max_position_embeddings,
                   SizeOr(root, "max_position_embeddings", kMaxPositions, /*otherwise=*/2048));
  return absl::OkStatus();
}

absl::Status ReadKeyRule(const JsonView& root, const ModelOverrides& overrides,
                         ModelConfig* config) {
  const std::optional<JsonView> value =
      root.Has("reuse_keys") ? root.Find("reuse_keys") : std::nullopt;
  if (value.has_value()) {
    const absl::StatusOr<std::string_view> rule = value->AsString("reuse_keys");
    if (!rule.ok() || (*rule != "post_rope" && *rule != "pre_rope"))
      return value->Unexpected("reuse_keys", "\"post_rope\" or \"pre_rope\"");
    config->reuse_keys = *rule == "pre_rope" ? ReuseKeys::kPreRope : ReuseKeys::kPostRope;
  }
  if (overrides.reuse_keys.has_value()) {
    config->reuse_keys = *overrides.reuse_keys;
  } else if (!value.has_value() && config->sharing.shares() && config->rotary_dim > 0 &&
             config->architecture->key_rule_unknown) {
    config->warning =
        "this model shares KV between layers and does not say which keys a reusing layer reads; "
        "taking post_rope, the owner's rotated keys, as CLA and most models do. The published "
        "pythia-mlkv checkpoints were trained with pre_rope, unrotated keys: under the wrong rule "
        "the output is wrong without any error. Say --reuse_keys post_rope or pre_rope, or put "
        "\"reuse_keys\" into config.json.";
  }
  return absl::OkStatus();
}

absl::Status ReadEndOfSequence(const JsonView& root, ModelConfig* config) {
  constexpr std::string_view kKey = "eos_token_id";
  if (!root.Has(kKey)) return absl::OkStatus();
  const JsonView value = *root.Find(kKey);
  const std::vector<JsonView> ids = value.IsArray() ? value.Elements() : std::vector{value};
  for (const JsonView& id : ids) {
    ASSIGN_OR_RETURN(const int64_t token, IntWithin(id, kKey, 0, config->vocab_size - 1));
    config->eos_token_ids.push_back(static_cast<int32_t>(token));
  }
  return absl::OkStatus();
}

// Only a hint for the default of --dtype: every tensor states its own. Others are left unset.
absl::Status ReadDType(const JsonView& root, ModelConfig* config) {
  const std::string_view key = root.Has("torch_dtype") ? "torch_dtype" : "dtype";
  ASSIGN_OR_RETURN(std::string name, root.GetStringOr(key, ""));
  name = std::string(absl::StripPrefix(name, "torch."));
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16})
    if (name == Name(dtype)) config->torch_dtype = dtype;
  return absl::OkStatus();
}

}  // namespace

int64_t ModelConfig::KvBytesPerToken(DType dtype) const {
  const auto num_owners = static_cast<int64_t>(sharing.owners().size());
  return 2 * num_owners * num_kv_heads * head_dim * SizeOf(dtype);
}

int64_t ModelConfig::NumParameters() const {
  const auto linear = [](int64_t out, int64_t in, bool bias) {
    return out * in + (bias ? out : 0);
  };
  const int64_t query_size = int64_t{num_heads} * head_dim;
  const int64_t kv_size = int64_t{num_kv_heads} * head_dim;
  const int64_t key = use_key_value_mlp ? linear(kv_intermediate_size, hidden_size, qkv_bias) +
                                              linear(kv_size, kv_intermediate_size, qkv_bias)
                                        : linear(kv_size, hidden_size, qkv_bias);
  const int64_t norm_size = (norm_bias ? 2 : 1) * hidden_size;
  const int64_t head_norm = qk_norm ? head_dim : 0;
  const int64_t reuser = 2 * norm_size + head_norm + linear(query_size, hidden_size, qkv_bias) +
                         linear(hidden_size, query_size, output_bias) +
                         (gated_mlp ? 2 : 1) * linear(intermediate_size, hidden_size, mlp_bias) +
                         linear(hidden_size, intermediate_size, mlp_bias);
  const int64_t owner_more = 2 * key + head_norm + (separate_kv_norm ? norm_size : 0);
  const auto num_owners = static_cast<int64_t>(sharing.owners().size());
  return (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size + norm_size +
         num_layers * reuser + num_owners * owner_more;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir,
                                            const ModelOverrides& overrides) {
  ASSIGN_OR_RETURN(const Json json, Json::ReadFile(model_dir + "/config.json", kMaxConfigBytes));
  const JsonView root = json.root();
  if (!root.IsObject()) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": expected an object with the model's settings"));
  }
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, FindArchitecture(root));
  RETURN_IF_ERROR(ReadSizes(root, &config));
  RETURN_IF_ERROR(config.architecture->read_config(root, &config));
  ASSIGN_OR_RETURN(config.sharing, ReadSharing(root, overrides.kv_source, config.num_layers));
  RETURN_IF_ERROR(ReadKeyRule(root, overrides, &config));
  RETURN_IF_ERROR(ReadEndOfSequence(root, &config));
  RETURN_IF_ERROR(ReadDType(root, &config));
  ASSIGN_OR_RETURN(config.tie_word_embeddings, root.GetBoolOr("tie_word_embeddings", false));
  return config;
}

absl::Status CheckSlidingWindow(const ModelConfig& config, int64_t max_model_len) {
  if (config.sliding_window == 0 || config.sliding_window >= max_model_len) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "this model has layers with a sliding window of ", config.sliding_window,
      " tokens (sliding_window in config.json), and max_model_len is ", max_model_len,
      "; beyond its window the engine would compute another model. Say --max_model_len ",
      config.sliding_window));
}

}  // namespace polystrate
