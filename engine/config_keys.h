// Values of config.json, read and checked; what every family's reader needs.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "kernels/ops.h"

namespace polystrate {

// Bounds of the sizes a config may state, each a power of two well above any model known, small
// enough together for 63-bit products.
inline constexpr int64_t kMaxVocab = 1 << 24;
inline constexpr int64_t kMaxHidden = 1 << 18;  // also of num_heads * head_dim
inline constexpr int64_t kMaxLayers = 1 << 12;
inline constexpr int64_t kMaxIntermediate = 1 << 22;
inline constexpr int64_t kMaxPositions = 1 << 21;

// All are INVALID_ARGUMENT otherwise, with the key, its value and what was expected.

absl::StatusOr<int64_t> IntWithin(const JsonView& value, std::string_view key, int64_t min,
                                  int64_t max);
// A size of at least 1; the default, if there is one, where the key is absent or null.
absl::StatusOr<int64_t> SizeOr(const JsonView& root, std::string_view key, int64_t max,
                               std::optional<int64_t> otherwise = std::nullopt);
// A norm's epsilon. As float32 it is not zero, or a constant row would divide by zero.
absl::StatusOr<float> EpsilonOr(const JsonView& root, std::string_view key, double otherwise);
// By Hugging Face's names.
absl::StatusOr<Activation> ActivationOr(const JsonView& root, std::string_view key,
                                        std::string_view otherwise);

}  // namespace polystrate
