// Few rows of any type and any k: float32, which the tensor cores would round, and sizes that are
// no whole number of 16-byte steps.
//
// Grid: n / 8 thread blocks. Block: 8 warps, each with one row of weights, its lanes along k, 4
// loads under way in each. No shared memory. Bytes: the weights once, which bounds float32 with few
// rows; x through L1 for every row of weights, which bounds it from about 8 rows on.
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/skinny_gemm.h"

namespace polystrate::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kUnroll = 4;

struct DotTask {
  const void* weight;  // [n, k]
  const void* x;       // [num_tokens, k]
  int64_t x_stride;
  int64_t n;
  int64_t k;
  int num_tokens;
  Epilogue epilogue;
};

// kVector values, or zeros.
template <typename T, int kVector>
__device__ __forceinline__ void Load(const T* from, bool valid, float (&to)[kVector]) {
  if constexpr (kVector == 4) {
    const uint4 bits = LoadStreaming(from, valid);
    to[0] = __uint_as_float(bits.x);
    to[1] = __uint_as_float(bits.y);
    to[2] = __uint_as_float(bits.z);
    to[3] = __uint_as_float(bits.w);
  } else {
    to[0] = valid ? ToFloat(*from) : 0.0f;
  }
}

// The sum over k of one lane: sum += w x.
template <typename T, int kVector>
__device__ __forceinline__ float Dot(const T* x, int64_t at, int64_t k,
                                     const float (&w)[kUnroll][kVector], float sum) {
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t column = at + u * 32 * kVector;
    if (column >= k) break;
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum = fmaf(w[u][i], ToFloat(x[column + i]), sum);
  }
  return sum;
}

template <typename T, int kVector, int kTokens>
__global__ void __launch_bounds__(kWarps * 32) DotGemmKernel(DotTask task) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const int lane = threadIdx.x % 32;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= task.n) return;
  const T* weight = static_cast<const T*>(task.weight) + row * task.k;
  const T* x = static_cast<const T*>(task.x);
  float sums[kTokens] = {};
  for (int64_t at = lane * kVector; at < task.k; at += kUnroll * 32 * kVector) {
    float w[kUnroll][kVector];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t column = at + u * 32 * kVector;
      Load<T, kVector>(weight + column, column < task.k, w[u]);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t < task.num_tokens) sums[t] = Dot(x + t * task.x_stride, at, task.k, w, sums[t]);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    for (int distance = 16; distance > 0; distance /= 2) {
      sums[t] += __shfl_xor_sync(0xffffffffu, sums[t], distance);
    }
    if (lane == t && t < task.num_tokens) Finish(task.epilogue, t, row, sums[t]);
  }
}

template <typename T, int kVector>
void Start(const CudaContext& context, const DotTask& task) {
  const auto blocks = static_cast<unsigned>((task.n + kWarps - 1) / kWarps);
  auto kernel = DotGemmKernel<T, kVector, kSkinnyRows>;
  if (task.num_tokens <= 4) kernel = DotGemmKernel<T, kVector, 4>;
  if (task.num_tokens == 1) kernel = DotGemmKernel<T, kVector, 1>;
  LaunchEarly(context, kernel, blocks, kWarps * 32, 0, task);
}

}  // namespace

void DotGemm(const CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
             const Tensor& out, const GemmOptions& options) {
  DotTask task;
  task.weight = weight.raw();
  task.x = x.raw();
  task.x_stride = x.row_stride();
  task.n = weight.dim(0);
  task.k = weight.dim(1);
  task.num_tokens = static_cast<int>(x.dim(0));
  task.epilogue = EpilogueOf(bias, out, options);
  DispatchType(x.dtype(), [&]<typename T>(T*) {
    if constexpr (sizeof(T) == 4) {
      if (task.k % 4 == 0 && reinterpret_cast<uintptr_t>(task.weight) % 16 == 0) {
        return Start<T, 4>(context, task);
      }
    }
    Start<T, 1>(context, task);
  });
}

}  // namespace polystrate::cuda
