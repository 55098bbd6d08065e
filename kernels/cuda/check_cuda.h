// CHECK_CUDA: a CUDA call that fails is a bug or a broken GPU; either way the rank cannot go on.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "kernels/core/check.h"

#define CHECK_CUDA(call)                                                                           \
  do {                                                                                             \
    const cudaError_t check_cuda_error = (call);                                                   \
    if (check_cuda_error != cudaSuccess) [[unlikely]]                                              \
      ::polystrate::CheckFailed(__FILE__, __LINE__,                                                \
                                std::string(#call) + ": " + cudaGetErrorString(check_cuda_error)); \
  } while (false)
