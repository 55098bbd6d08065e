// Activate: the activations of ops.h in kernels, by the formulas of the CPU's (NaN stays NaN).
#pragma once

#include <cuda_runtime.h>

#include "kernels/ops.h"

namespace polystrate::cuda {

// `activation` is the same in all threads, so that the branch costs little.
__device__ __forceinline__ float Activate(float x, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kGelu: {
      const float half = 0.5f * x;
      return fmaf(half, erff(x * 0.70710678118654752f), half);
    }
    case Activation::kGeluTanh: {
      // x / 2 (1 + tanh u) = x / (1 + exp(-2 u))
      const float u = x * fmaf(x * x, 0.044715f * 0.79788456080286536f, 0.79788456080286536f);
      return __fdividef(x, 1.0f + __expf(-2.0f * u));
    }
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    case Activation::kSilu:
      return __fdividef(x, 1.0f + __expf(-x));
  }
  return x;
}

}  // namespace polystrate::cuda
