// What biases and penalties do to one logit (kernels/ops.h, SampleRow): the arithmetic of every
// device, in float64 and rounded once.
#pragma once

#include <cstdint>
#include <limits>

#include "kernels/ops.h"

namespace polystrate {

// -infinity stays, so that a banned token stays banned.
constexpr float RoundedLogit(double logit) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (logit < -kLargest) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(logit > kLargest ? kLargest : logit);
}

constexpr float Biased(float logit, float bias) {
  return RoundedLogit(static_cast<double>(logit) + static_cast<double>(bias));
}

// `count`: of a token in the row's history.
constexpr float Penalised(float logit, int32_t count, const SampleRow& row) {
  auto x = static_cast<double>(logit);
  const auto repetition = static_cast<double>(row.repetition_penalty);
  x = x > 0.0 ? x / repetition : x * repetition;
  if (count > 0) {
    x -= static_cast<double>(row.frequency_penalty) * count;
    x -= static_cast<double>(row.presence_penalty);
  }
  return RoundedLogit(x);
}

}  // namespace polystrate
