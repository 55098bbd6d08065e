#include "engine/rope_keys.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// A number from `min` up to 1e9.
absl::StatusOr<double> NumberOr(const JsonView& rope, std::string_view key, double min,
                                std::optional<double> otherwise) {
  if (!rope.Has(key) && otherwise.has_value()) return *otherwise;
  ASSIGN_OR_RETURN(const double value, rope.GetDouble(key));
  if (value >= min && value <= 1e9) return value;
  return rope.Find(key)->Unexpected(key, absl::StrCat("a number from ", min, " to 1e9"));
}

// By what yarn multiplies cos and sin unless the config says: grows with the logarithm of `factor`.
double YarnFactor(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

absl::Status ReadYarn(const JsonView& rope, int64_t max_positions, RopeScaling* scaling) {
  const double stretch =
      static_cast<double>(max_positions) / scaling->original_max_position_embeddings;
  ASSIGN_OR_RETURN(scaling->factor, NumberOr(rope, "factor", 1.0, std::max(1.0, stretch)));
  ASSIGN_OR_RETURN(scaling->beta_fast, NumberOr(rope, "beta_fast", 1e-3, 32));
  ASSIGN_OR_RETURN(scaling->beta_slow, NumberOr(rope, "beta_slow", 1e-3, 1));
  ASSIGN_OR_RETURN(scaling->truncate, rope.GetBoolOr("truncate", true));
  ASSIGN_OR_RETURN(const double mscale, NumberOr(rope, "mscale", 0, 0));
  ASSIGN_OR_RETURN(const double mscale_all_dim, NumberOr(rope, "mscale_all_dim", 0, 0));
  const double otherwise =
      mscale > 0 && mscale_all_dim > 0
          ? YarnFactor(scaling->factor, mscale) / YarnFactor(scaling->factor, mscale_all_dim)
          : YarnFactor(scaling->factor, 1);
  ASSIGN_OR_RETURN(scaling->attention_factor, NumberOr(rope, "attention_factor", 1e-6, otherwise));
  return absl::OkStatus();
}

absl::Status ReadLlama3(const JsonView& rope, RopeScaling* scaling) {
  ASSIGN_OR_RETURN(scaling->factor, NumberOr(rope, "factor", 1.0, std::nullopt));
  ASSIGN_OR_RETURN(scaling->low_freq_factor, NumberOr(rope, "low_freq_factor", 1e-3, std::nullopt));
  ASSIGN_OR_RETURN(scaling->high_freq_factor,
                   NumberOr(rope, "high_freq_factor", 1e-3, std::nullopt));
  if (scaling->high_freq_factor > scaling->low_freq_factor) return absl::OkStatus();
  return rope.Find("high_freq_factor")
      ->Unexpected("high_freq_factor", absl::StrCat("a number above low_freq_factor, which is ",
                                                    scaling->low_freq_factor));
}

// `rope` is the value of rope_scaling or rope_parameters.
absl::StatusOr<RopeScaling> ReadScaling(const JsonView& root, const JsonView& rope,
                                        int64_t max_positions) {
  const std::string_view key = rope.Has("rope_type") ? "rope_type" : "type";
  ASSIGN_OR_RETURN(const std::string type, rope.GetStringOr(key, "default"));
  RopeScaling scaling;
  if (type == "default") return scaling;
  if (type == "dynamic") {
    RETURN_IF_ERROR(NumberOr(rope, "factor", 1.0, std::nullopt).status());
    return scaling;
  }
  if (type == "linear") {
    scaling.type = RopeScaling::Type::kLinear;
    ASSIGN_OR_RETURN(scaling.factor, NumberOr(rope, "factor", 1.0, std::nullopt));
    return scaling;
  }
  if (type != "yarn" && type != "llama3") {
    return rope.Find(key)->Unexpected(
        key, "a supported rotary scaling: default, linear, dynamic, yarn or llama3");
  }
  constexpr std::string_view kOriginal = "original_max_position_embeddings";
  ASSIGN_OR_RETURN(scaling.original_max_position_embeddings,
                   NumberOr(root.Has(kOriginal) ? root : rope, kOriginal, 1,
                            static_cast<double>(max_positions)));
  if (type == "yarn") {
    scaling.type = RopeScaling::Type::kYarn;
    RETURN_IF_ERROR(ReadYarn(rope, max_positions, &scaling));
  } else {
    scaling.type = RopeScaling::Type::kLlama3;
    RETURN_IF_ERROR(ReadLlama3(rope, &scaling));
  }
  return scaling;
}

// A rotary setting as the first key that is there spells it: in rope_parameters (transformers 5),
// at the top level by the common name, there by the family's own.
absl::StatusOr<double> RotaryNumber(const JsonView& root, const std::optional<JsonView>& rope,
                                    std::string_view common_key, std::string_view own_key,
                                    double otherwise) {
  if (rope.has_value() && rope->Has(common_key)) return rope->GetDouble(common_key);
  if (root.Has(common_key)) return root.GetDouble(common_key);
  return root.GetDoubleOr(own_key, otherwise);
}

}  // namespace

absl::Status ReadRope(const JsonView& root, const RopeKeys& keys, ModelConfig* config) {
  std::optional<JsonView> rope;
  for (const std::string_view key : {"rope_parameters", "rope_scaling"}) {
    if (!root.Has(key)) continue;
    ASSIGN_OR_RETURN(rope, root.GetObject(key));
  }
  ASSIGN_OR_RETURN(config->rope_base, RotaryNumber(root, rope, "rope_theta", keys.base, 10000.0));
  ASSIGN_OR_RETURN(const double share, RotaryNumber(root, rope, "partial_rotary_factor", keys.share,
                                                    keys.default_share));
  if (!(config->rope_base > 0.0 && config->rope_base <= 1e30)) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": the rotary base (rope_theta or rotary_emb_base) is ",
                     config->rope_base, ", expected a number above 0 and at most 1e30"));
  }
  const auto error = [&](absl::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        root.document(), ": the rotary share (partial_rotary_factor or rotary_pct) is ", share,
        ", expected ", expected));
  };
  if (!(share >= 0.0 && share <= 1.0)) return error("a number from 0 to 1");
  config->rotary_dim = static_cast<int>(config->head_dim * share);
  if (config->rotary_dim % 2 != 0) {
    return error(absl::StrCat("one that makes an even number of the ", config->head_dim,
                              " dimensions of a head, not ", config->rotary_dim));
  }
  if (!rope.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(config->rope_scaling, ReadScaling(root, *rope, config->max_position_embeddings));
  if (config->rope_scaling.type == RopeScaling::Type::kYarn && config->rope_base <= 1.0)
    return absl::InvalidArgumentError(absl::StrCat(root.document(), ": the rotary base is ",
                                                   config->rope_base,
                                                   ", expected a number above 1 with yarn"));
  return absl::OkStatus();
}

}  // namespace polystrate
