#include "engine/config_keys.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Layers of four square matrices, three of a gated MLP and both K/V MLPs, and two vocabularies.
static_assert(kMaxLayers * (4 * kMaxHidden * kMaxHidden + 7 * kMaxHidden * kMaxIntermediate) +
                  2 * kMaxVocab * kMaxHidden <
              (int64_t{1} << 62) / 4);

struct ActivationName {
  std::string_view name;
  Activation activation;
};
constexpr ActivationName kActivations[] = {
    {"gelu", Activation::kGelu},          {"gelu_new", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"relu", Activation::kRelu},          {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
};

}  // namespace

absl::StatusOr<int64_t> IntWithin(const JsonView& value, std::string_view key, int64_t min,
                                  int64_t max) {
  const std::string expected = absl::StrCat("an integer from ", min, " to ", max);
  const absl::StatusOr<int64_t> number = value.AsInt(key);
  if (!number.ok() || *number < min || *number > max) return value.Unexpected(key, expected);
  return *number;
}

absl::StatusOr<int64_t> SizeOr(const JsonView& root, std::string_view key, int64_t max,
                               std::optional<int64_t> otherwise) {
  if (root.Has(key)) return IntWithin(*root.Find(key), key, 1, max);
  if (otherwise.has_value()) return *otherwise;
  return absl::InvalidArgumentError(absl::StrCat(root.document(), ": \"", std::string(key),
                                                 "\" is missing, expected an integer from 1 to ",
                                                 max));
}

absl::StatusOr<float> EpsilonOr(const JsonView& root, std::string_view key, double otherwise) {
  ASSIGN_OR_RETURN(const double epsilon, root.GetDoubleOr(key, otherwise));
  if (!(epsilon >= 1e-30 && epsilon <= 1.0))
    return root.Find(key)->Unexpected(key, "a number from 1e-30 to 1");
  return static_cast<float>(epsilon);
}

absl::StatusOr<Activation> ActivationOr(const JsonView& root, std::string_view key,
                                        std::string_view otherwise) {
  ASSIGN_OR_RETURN(const std::string name, root.GetStringOr(key, otherwise));
  std::string known;
  for (const ActivationName& entry : kActivations) {
    if (name == entry.name) return entry.activation;
    absl::StrAppend(&known, known.empty() ? "one of " : ", ", std::string(entry.name));
  }
  return root.Find(key)->Unexpected(key, known);
}

}  // namespace polystrate
