// Few rows: own kernels, bound by the weights' bytes (skinny_gemm.h). Many rows: cuBLASLt, bound by
// arithmetic, and a pass over its results for what it cannot add itself.
#include <algorithm>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/skinny_gemm.h"

namespace polystrate::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRowsPerBlock = 4;
constexpr int64_t kMostBlocksInY = 65535;

// kVector elements, read and written at once.
template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T values[kVector];
};

// out = activation(out + bias).
//   Grid: (n / (256 kVector), rows / 4). Block: 256 threads, each with kVector columns (16 bytes)
//   of
// 4 rows, all loads first. Bytes: out once each way, which bounds it (exact GELU comes close to the
// limit of arithmetic).
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads)
    EpilogueKernel(T* out, const float* bias, Activation activation, int64_t num_rows, int64_t n,
                   int64_t stride) {
  using Packed = Pack<T, kVector>;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (column >= n) return;
  float biases[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) biases[i] = bias == nullptr ? 0.0f : bias[column + i];
  for (int64_t first = blockIdx.y * kRowsPerBlock; first < num_rows;
       first += gridDim.y * kRowsPerBlock) {
    auto* at = reinterpret_cast<Packed*>(out + first * stride + column);
    const int64_t step = stride / kVector, count = min(kRowsPerBlock, num_rows - first);
    Packed packs[kRowsPerBlock];
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      if (r < count) packs[r] = at[r * step];
    }
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      if (r >= count) break;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        T& value = packs[r].values[i];
        value = FromFloat<T>(Activate(ToFloat(value) + biases[i], activation));
      }
      at[r * step] = packs[r];
    }
  }
}

template <typename T, int kVector>
void StartEpilogue(const CudaContext& context, const Tensor& bias, const Tensor& out,
                   Activation activation) {
  const int64_t num_rows = out.dim(0), n = out.dim(1);
  const auto columns = static_cast<unsigned>((n + kThreads * kVector - 1) / (kThreads * kVector));
  const auto rows = static_cast<unsigned>(
      std::min((num_rows + kRowsPerBlock - 1) / kRowsPerBlock, kMostBlocksInY));
  Launch(context, EpilogueKernel<T, kVector>, dim3(columns, rows), kThreads, 0,
         static_cast<T*>(out.raw()), bias.empty() ? nullptr : bias.data<float>(), activation,
         num_rows, n, out.row_stride());
}

void ApplyEpilogue(const CudaContext& context, const Tensor& bias, const Tensor& out,
                   Activation activation) {
  DispatchType(out.dtype(), [&]<typename T>(T*) {
    constexpr int kVector = 16 / sizeof(T);
    const bool aligned = reinterpret_cast<uintptr_t>(out.raw()) % 16 == 0 &&
                         out.row_stride() % kVector == 0 && out.dim(1) % kVector == 0;
    if (aligned) return StartEpilogue<T, kVector>(context, bias, out, activation);
    StartEpilogue<T, 1>(context, bias, out, activation);
  });
}

// False, with nothing done, where cuBLASLt has nothing for the shapes.
bool RunLibrary(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                const Tensor& out, const GemmOptions& options) {
  switch (context.library_gemm().Run(context, x, weight, bias, out, options.accumulate)) {
    case LibraryGemm::Done::kNothing:
      return false;
    case LibraryGemm::Done::kProduct:
      ApplyEpilogue(context, bias, out, options.activation);
      return true;
    case LibraryGemm::Done::kProductAndBias:
      if (options.activation != Activation::kNone) {
        ApplyEpilogue(context, Tensor(), out, options.activation);
      }
      return true;
  }
  return false;
}

}  // namespace

void SkinnyGemm(const CudaContext& context, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const Tensor& out, const GemmOptions& options) {
  if (StreamGemm(context, x, weight, bias, out, options)) return;
  DotGemm(context, x, weight, bias, out, options);
}

void Gemm(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options) {
  const int64_t m = x.dim(0), n = weight.dim(0), k = weight.dim(1);
  if (m == 0 || n == 0) return;
  if (m > kSkinnyRows && k > 0 && RunLibrary(context, x, weight, bias, out, options)) return;
  for (int64_t first = 0; first < m; first += kSkinnyRows) {
    const int64_t count = std::min(kSkinnyRows, m - first);
    SkinnyGemm(context, x.Rows(first, count), weight, bias, out.Rows(first, count), options);
  }
}

}  // namespace polystrate::cuda
