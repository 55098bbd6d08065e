// Epilogue: what becomes of a product before it is stored.
#pragma once

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/types.cuh"
#include "kernels/ops.h"

namespace polystrate::cuda {

// out = activation(product + bias), or out += product + bias.
struct Epilogue {
  void* out;          // [num_tokens, n] of out_dtype
  const float* bias;  // [n], or null
  int64_t out_stride;
  DType out_dtype;
  Activation activation;
  bool accumulate;
};

inline Epilogue EpilogueOf(const Tensor& bias, const Tensor& out, const GemmOptions& options) {
  return {out.raw(),          bias.empty() ? nullptr : bias.data<float>(),
          out.row_stride(),   out.dtype(),
          options.activation, options.accumulate};
}

// Its choices are the same in all threads, so that the branches cost little.
__device__ __forceinline__ void Finish(const Epilogue& epilogue, int64_t token, int64_t column,
                                       float value) {
  const int64_t at = token * epilogue.out_stride + column;
  if (epilogue.bias != nullptr) value += epilogue.bias[column];
  if (epilogue.accumulate) {
    static_cast<float*>(epilogue.out)[at] += value;
    return;
  }
  value = Activate(value, epilogue.activation);
  switch (epilogue.out_dtype) {
    case DType::kBFloat16:
      static_cast<__nv_bfloat16*>(epilogue.out)[at] = FromFloat<__nv_bfloat16>(value);
      break;
    case DType::kFloat16:
      static_cast<__half*>(epilogue.out)[at] = FromFloat<__half>(value);
      break;
    default:
      static_cast<float*>(epilogue.out)[at] = value;
  }
}

}  // namespace polystrate::cuda
