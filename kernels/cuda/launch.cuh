// Launch: the one way a kernel is started. Kernels are plain CUDA C++; what is not lies in ptx.cuh.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels/cuda/check_cuda.h"
#include "kernels/cuda/context.h"

namespace polystrate::cuda {

// Most dynamic shared memory that a kernel may use without asking.
inline constexpr int64_t kPlainSharedBytes = 48 * 1024;

template <typename... Parameters, typename... Arguments>
void StartKernel(const CudaContext& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 int64_t shared_bytes, bool early, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > kPlainSharedBytes) {
    CHECK_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)));
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = context.stream();
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  CHECK_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

// kernel<<<grid, block, shared_bytes>>>(arguments...) on the context's stream. An empty grid starts
// nothing.
template <typename... Parameters, typename... Arguments>
void Launch(const CudaContext& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            int64_t shared_bytes, Arguments&&... arguments) {
  StartKernel(context, kernel, grid, block, shared_bytes, /*early=*/false,
              std::forward<Arguments>(arguments)...);
}

// The same, but the kernel's thread blocks may start while the kernel in front of it ends, or, if
// that calls LetNextKernelStart (ptx.cuh), runs. So every thread of it must call
// WaitForKernelBefore before it reads what an operator may have written, or writes anything. What
// it does before hides the gap between two kernels.
template <typename... Parameters, typename... Arguments>
void LaunchEarly(const CudaContext& context, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                 int64_t shared_bytes, Arguments&&... arguments) {
  StartKernel(context, kernel, grid, block, shared_bytes,
              /*early=*/context.properties().compute_major >= 9,
              std::forward<Arguments>(arguments)...);
}

}  // namespace polystrate::cuda
