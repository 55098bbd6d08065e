#include "tests/testing/counter_weights.h"

#include <cmath>

#include "absl/strings/match.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr uint64_t kGoldenRatio = 0x9E3779B97F4A7C15;

uint64_t Fnv1a64(const std::string& bytes) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<uint8_t>(byte)) * 0x100000001B3;
  return hash;
}

uint64_t SplitMix64(uint64_t z) {
  z += kGoldenRatio;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

struct OffsetScale {
  double offset = 0;
  double scale = 0;
};

OffsetScale OffsetAndScale(const std::string& name, const std::vector<int64_t>& shape,
                           double gain) {
  if (absl::EndsWith(name, ".bias")) return {0.0, 0.1};
  if (absl::EndsWith(name, "norm.weight")) return {1.0, 0.1};
  if (absl::EndsWith(name, "embed_in.weight") || absl::EndsWith(name, "embed_tokens.weight"))
    return {0.0, 1.0};
  CHECK_EQ(shape.size(), 2u);
  return {0.0, gain * std::sqrt(3.0 / static_cast<double>(shape[1]))};
}

}  // namespace

std::vector<float> CounterWeights(const std::string& name, const std::vector<int64_t>& shape,
                                  uint64_t model_seed, double gain) {
  const auto [offset, scale] = OffsetAndScale(name, shape, gain);
  const uint64_t seed = Fnv1a64(name) ^ model_seed;
  size_t count = 1;
  for (const int64_t dim : shape) count *= static_cast<size_t>(dim);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    const auto unit = static_cast<double>(SplitMix64(seed + i * kGoldenRatio) >> 40) / 0x1p24;
    values[i] = static_cast<float>(offset + scale * (2 * unit - 1));
  }
  return values;
}

}  // namespace polystrate
