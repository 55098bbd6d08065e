#include "engine/rope_scaling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/ops.h"

namespace polystrate {
namespace {

// The dimension, of rotary_dim, that turns `rotations` times over the original context.
double YarnDimension(double rotations, double base, int rotary_dim, const RopeScaling& scaling) {
  const double wavelength =
      scaling.original_max_position_embeddings / (rotations * 2 * std::numbers::pi);
  return rotary_dim * std::log(wavelength) / (2 * std::log(base));
}

void ScaleYarn(double base, int rotary_dim, const RopeScaling& scaling,
               std::vector<float>* frequencies) {
  double low = YarnDimension(scaling.beta_fast, base, rotary_dim, scaling);
  double high = YarnDimension(scaling.beta_slow, base, rotary_dim, scaling);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary_dim - 1.0);
  if (low == high) high += 0.001;
  for (int j = 0; j < rotary_dim / 2; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(rotary_dim);
    const float wavelength = std::pow(static_cast<float>(base), exponent);
    const float ramp =
        (static_cast<float>(j) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1.0f - std::clamp(ramp, 0.0f, 1.0f);
    (*frequencies)[j] = 1.0f / (static_cast<float>(scaling.factor) * wavelength) * (1.0f - kept) +
                        1.0f / wavelength * kept;
  }
}

void ScaleLlama3(const RopeScaling& scaling, std::vector<float>* frequencies) {
  const double original = scaling.original_max_position_embeddings;
  const auto factor = static_cast<float>(scaling.factor);
  const auto longest = static_cast<float>(original / scaling.low_freq_factor);
  const auto shortest = static_cast<float>(original / scaling.high_freq_factor);
  for (float& f : *frequencies) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / f;
    if (wavelength < shortest) continue;
    if (wavelength > longest) {
      f /= factor;
      continue;
    }
    const float kept =
        (static_cast<float>(original) / wavelength - static_cast<float>(scaling.low_freq_factor)) /
        static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
    f = (1.0f - kept) * f / factor + kept * f;
  }
}

}  // namespace

std::vector<float> ScaledFrequencies(double base, int rotary_dim, const RopeScaling& scaling) {
  std::vector<float> frequencies = RopeFrequencies(base, rotary_dim);
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      break;
    case RopeScaling::Type::kLinear:
      for (float& f : frequencies) f /= static_cast<float>(scaling.factor);
      break;
    case RopeScaling::Type::kYarn:
      ScaleYarn(base, rotary_dim, scaling, &frequencies);
      break;
    case RopeScaling::Type::kLlama3:
      ScaleLlama3(scaling, &frequencies);
      break;
  }
  return frequencies;
}

}  // namespace polystrate
