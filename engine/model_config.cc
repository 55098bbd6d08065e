#include "engine/model_config.h"

#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

// Each a power of two well above any model known, small enough together for 63-bit products.
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxHidden = 1 << 18;
constexpr int64_t kMaxLayers = 1 << 12;
constexpr int64_t kMaxIntermediate = 1 << 22;
constexpr int64_t kMaxPositions = 1 << 21;
// Layers of four square matrices, two MLP matrices and both K/V MLPs, and two vocabularies.
static_assert(kMaxLayers * (4 * kMaxHidden * kMaxHidden + 6 * kMaxHidden * kMaxIntermediate) +
                  2 * kMaxVocab * kMaxHidden <
              (int64_t{1} << 62) / 4);

absl::StatusOr<int64_t> IntWithin(const JsonView& value, std::string_view key, int64_t min,
                                  int64_t max) {
  const std::string expected = absl::StrCat("an integer from ", min, " to ", max);
  const absl::StatusOr<int64_t> number = value.AsInt(key);
  if (!number.ok() || *number < min || *number > max) return value.Unexpected(key, expected);
  return *number;
}

// A size of at least 1; the default, if there is one, where the key is absent or null.
absl::StatusOr<int64_t> SizeOr(const JsonView& root, std::string_view key, int64_t max,
                               std::optional<int64_t> otherwise = std::nullopt) {
  if (root.Has(key)) return IntWithin(*root.Find(key), key, 1, max);
  if (otherwise.has_value()) return *otherwise;
  return absl::InvalidArgumentError(absl::StrCat(root.document(), ": \"", std::string(key),
                                                 "\" is missing, expected an integer from 1 to ",
                                                 max));
}

absl::Status CheckArchitecture(const JsonView& root) {
  constexpr std::string_view kSupported = "a supported one: \"gpt_neox\" (GPT-NeoX, Pythia, MLKV)";
  const std::optional<JsonView> type = root.Find("model_type");
  if (!type.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        root.document(), ": \"model_type\" is missing, expected ", std::string(kSupported)));
  }
  const absl::StatusOr<std::string_view> name = type->AsString("model_type");
  if (!name.ok() || *name != "gpt_neox") return type->Unexpected("model_type", kSupported);
  return absl::OkStatus();
}

absl::Status ReadSizes(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->vocab_size, SizeOr(root, "vocab_size", kMaxVocab));
  ASSIGN_OR_RETURN(config->hidden_size, SizeOr(root, "hidden_size", kMaxHidden));
  ASSIGN_OR_RETURN(const int64_t num_layers, SizeOr(root, "num_hidden_layers", kMaxLayers));
  ASSIGN_OR_RETURN(const int64_t num_heads,
                   SizeOr(root, "num_attention_heads", config->hidden_size));
  if (config->hidden_size % num_heads != 0) {
    return root.Find("num_attention_heads")
        ->Unexpected("num_attention_heads",
                     absl::StrCat("a divisor of hidden_size, which is ", config->hidden_size));
  }
  config->num_layers = static_cast<int>(num_layers);
  config->num_heads = static_cast<int>(num_heads);
  config->head_dim = static_cast<int>(config->hidden_size / num_heads);
  ASSIGN_OR_RETURN(const int64_t head_dim,
                   SizeOr(root, "head_dim", kMaxHidden, /*otherwise=*/config->head_dim));
  if (head_dim != config->head_dim) {
    return root.Find("head_dim")
        ->Unexpected("head_dim",
                     absl::StrCat(config->head_dim, ", hidden_size / num_attention_heads"));
  }
  ASSIGN_OR_RETURN(config->intermediate_size, SizeOr(root, "intermediate_size", kMaxIntermediate));
  ASSIGN_OR_RETURN(config->max_position_embeddings,
                   SizeOr(root, "max_position_embeddings", kMaxPositions, /*otherwise=*/2048));
  ASSIGN_OR_RETURN(const double epsilon, root.GetDoubleOr("layer_norm_eps", 1e-5));
  // As float32 it must not be zero, or a constant row would divide by zero.
  if (!(epsilon >= 1e-30 && epsilon <= 1.0))
    return root.Find("layer_norm_eps")->Unexpected("layer_norm_eps", "a number from 1e-30 to 1");
  config->layer_norm_epsilon = static_cast<float>(epsilon);
  return absl::OkStatus();
}

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

absl::Status ReadActivation(const JsonView& root, ModelConfig* config) {
  ASSIGN_OR_RETURN(const std::string name, root.GetStringOr("hidden_act", "gelu"));
  if (name == "gelu") {
    config->activation = Activation::kGelu;
  } else if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") {
    config->activation = Activation::kGeluTanh;
  } else if (name == "relu") {
    config->activation = Activation::kRelu;
  } else {
    return root.Find("hidden_act")
        ->Unexpected("hidden_act", "gelu, gelu_new, gelu_fast, gelu_pytorch_tanh or relu");
  }
  return absl::OkStatus();
}

absl::StatusOr<KvSharing> ReadKvSource(const JsonView& root, int num_layers) {
  ASSIGN_OR_RETURN(const JsonView list, root.GetArray("kv_source"));
  if (list.size() != num_layers) {
    return list.Unexpected("kv_source",
                           absl::StrCat("one layer for each of num_hidden_layers, ", num_layers));
  }
  KvSharing sharing;
  for (const JsonView& source : list.Elements()) {
    ASSIGN_OR_RETURN(const int64_t layer, IntWithin(source, "kv_source", 0, num_layers - 1));
    sharing.kv_source.push_back(static_cast<int>(layer));
  }
  if (const absl::Status status = sharing.Validate(); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": kv_source: ", status.message()));
  }
  return sharing;
}

absl::Status ReadSharing(const JsonView& root, ModelConfig* config) {
  // Published stock configs have neither key, and the MLKV class's own defaults (64 and 44) fit no
  // published model: absent means unshared.
  ASSIGN_OR_RETURN(const int64_t kv_heads, SizeOr(root, "num_key_value_heads", config->num_heads,
                                                  /*otherwise=*/config->num_heads));
  if (config->num_heads % kv_heads != 0) {
    return root.Find("num_key_value_heads")
        ->Unexpected(
            "num_key_value_heads",
            absl::StrCat("a divisor of num_attention_heads, which is ", config->num_heads));
  }
  config->num_kv_heads = static_cast<int>(kv_heads);
  if (root.Has("kv_source")) {
    ASSIGN_OR_RETURN(config->sharing, ReadKvSource(root, config->num_layers));
  } else {
    ASSIGN_OR_RETURN(const int64_t kv_layers,
                     SizeOr(root, "num_key_value_layers", config->num_layers,
                            /*otherwise=*/config->num_layers));
    ASSIGN_OR_RETURN(config->sharing,
                     KvSharing::Mlkv(config->num_layers, static_cast<int>(kv_layers)));
  }
  ASSIGN_OR_RETURN(config->use_key_value_mlp, root.GetBoolOr("use_key_value_mlp", false));
  if (!config->use_key_value_mlp) return absl::OkStatus();  // the size is then junk in real files
  ASSIGN_OR_RETURN(config->kv_intermediate_size,
                   SizeOr(root, "kv_intermediate_size", kMaxIntermediate));
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
  } else if (!value.has_value() && config->sharing.shares() && config->rotary_dim > 0) {
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
  const int64_t kv_size = int64_t{num_kv_heads} * head_dim;
  const int64_t key = use_key_value_mlp
                          ? linear(kv_intermediate_size, hidden_size, attention_bias) +
                                linear(kv_size, kv_intermediate_size, attention_bias)
                          : linear(kv_size, hidden_size, attention_bias);
  const int64_t norm = 2 * hidden_size;
  const int64_t reuser = 2 * norm + 2 * linear(hidden_size, hidden_size, attention_bias) +
                         linear(intermediate_size, hidden_size, true) +
                         linear(hidden_size, intermediate_size, true);
  const auto num_owners = static_cast<int64_t>(sharing.owners().size());
  return (tie_word_embeddings ? 1 : 2) * vocab_size * hidden_size + norm + num_layers * reuser +
         num_owners * 2 * key;
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
  RETURN_IF_ERROR(CheckArchitecture(root));
  RETURN_IF_ERROR(ReadSizes(root, &config));
  RETURN_IF_ERROR(ReadRotary(root, &config));
  RETURN_IF_ERROR(ReadActivation(root, &config));
  RETURN_IF_ERROR(ReadSharing(root, &config));
  RETURN_IF_ERROR(ReadKeyRule(root, overrides, &config));
  RETURN_IF_ERROR(ReadEndOfSequence(root, &config));
  RETURN_IF_ERROR(ReadDType(root, &config));
  ASSIGN_OR_RETURN(config.use_parallel_residual, root.GetBoolOr("use_parallel_residual", true));
  ASSIGN_OR_RETURN(config.attention_bias, root.GetBoolOr("attention_bias", true));
  ASSIGN_OR_RETURN(config.tie_word_embeddings, root.GetBoolOr("tie_word_embeddings", false));
  return config;
}

}  // namespace polystrate
