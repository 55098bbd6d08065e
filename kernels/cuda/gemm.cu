// Few rows: own kernels, bound by the weights' bytes (skinny_gemm.h). Many rows: cuBLASLt, bound by
// arithmetic, and a pass over its results for what it cannot add itself.
#include <algorithm>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/skinny_gemm.h"

namespace polystrate::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRowsPerBlock = 4;
constexpr int64_t kMostBlocksInY = 65535;

// A product that waits for its epilogue lies in at most this much scratch, or 128 rows: less than
// the second-level cache of the GPUs that this is for.
constexpr int64_t kProductBytes = int64_t{32} << 20;
constexpr int64_t kProductRows = 128;

// kVector elements, read and written at once.
template <typename T, int kVector>
struct alignas(sizeof(T) * kVector) Pack {
  T values[kVector];
};

struct EpilogueTask {
  const float* product;  // [num_rows, n]
  int64_t product_stride;
  const float* bias;  // [n], or null
  Activation activation;
  void* out;  // [num_rows, n], may be the product
  int64_t out_stride;
  int64_t num_rows, n;
};

// out = activation(product + bias).
//   Grid: (n / (256 kVector), rows / 4). Block: 256 threads, each with kVector columns (16 bytes of
// out) of 4 rows, all loads first. Bytes: the product read, out written, which bounds it (exact
// GELU comes close to the limit of arithmetic).
template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) EpilogueKernel(EpilogueTask task) {
  LetNextKernelStart();
  WaitForKernelBefore();
  using Floats = Pack<float, kVector>;
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  if (column >= task.n) return;
  Floats bias = {};
  if (task.bias != nullptr) bias = *reinterpret_cast<const Floats*>(task.bias + column);
  for (int64_t first = blockIdx.y * kRowsPerBlock; first < task.num_rows;
       first += gridDim.y * kRowsPerBlock) {
    const int64_t count = min(kRowsPerBlock, task.num_rows - first);
    const float* from = task.product + first * task.product_stride + column;
    T* to = static_cast<T*>(task.out) + first * task.out_stride + column;
    Floats rows[kRowsPerBlock];
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      if (r < count) rows[r] = *reinterpret_cast<const Floats*>(from + r * task.product_stride);
    }
#pragma unroll
    for (int r = 0; r < kRowsPerBlock; ++r) {
      if (r >= count) break;
      Pack<T, kVector> results;
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        results.values[i] =
            FromFloat<T>(Activate(rows[r].values[i] + bias.values[i], task.activation));
      }
      *reinterpret_cast<Pack<T, kVector>*>(to + r * task.out_stride) = results;
    }
  }
}

template <typename T, int kVector>
void StartEpilogue(const CudaContext& context, const EpilogueTask& task) {
  const int64_t columns = (task.n + kThreads * kVector - 1) / (kThreads * kVector);
  const int64_t rows = (task.num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const dim3 grid(static_cast<unsigned>(columns),
                  static_cast<unsigned>(std::min(rows, kMostBlocksInY)));
  LaunchEarly(context, EpilogueKernel<T, kVector>, grid, kThreads, 0, task);
}

bool IsAligned(const void* data, int64_t alignment) {
  return reinterpret_cast<uintptr_t>(data) % alignment == 0;
}

// out = activation(product + bias). product: float32, may be out.
void ApplyEpilogue(const CudaContext& context, const Tensor& product, const Tensor& bias,
                   Activation activation, const Tensor& out) {
  EpilogueTask task;
  task.product = product.data<float>();
  task.product_stride = product.row_stride();
  task.bias = bias.empty() ? nullptr : bias.data<float>();
  task.activation = activation;
  task.out = out.raw();
  task.out_stride = out.row_stride();
  task.num_rows = out.dim(0);
  task.n = out.dim(1);
  DispatchType(out.dtype(), [&]<typename T>(T*) {
    constexpr int kVector = 16 / sizeof(T);
    constexpr int64_t kFloatBytes = kVector * sizeof(float);
    const bool in_steps = task.n % kVector == 0 && task.product_stride % kVector == 0 &&
                          task.out_stride % kVector == 0 && IsAligned(task.out, 16) &&
                          IsAligned(task.product, kFloatBytes) && IsAligned(task.bias, kFloatBytes);
    if (in_steps) return StartEpilogue<T, kVector>(context, task);
    StartEpilogue<T, 1>(context, task);
  });
}

// Where out is float32, the epilogue works in place.
bool RunInPlace(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                const Tensor& out, const GemmOptions& options) {
  switch (context.cublaslt_gemm().Run(context, x, weight, bias, out, options.accumulate)) {
    case LibraryGemm::Done::kNothing:
      return false;
    case LibraryGemm::Done::kProduct:
      ApplyEpilogue(context, out, bias, options.activation, out);
      return true;
    case LibraryGemm::Done::kProductAndBias:
      if (options.activation != Activation::kNone) {
        ApplyEpilogue(context, out, Tensor(), options.activation, out);
      }
      return true;
  }
  return false;
}

// Where it is not, the product waits for its epilogue in float32, lest it be rounded twice; so many
// rows at a time that it is still in the cache.
//   cuBLASLt could spare that only for a bias in out's type, and biases are float32: those of
// Pythia, stored in float16, are no bfloat16 numbers. Its GELU is the tanh form, GPT-NeoX's is not.
// Predicted for pythia-6.9b, 4 x 2,048 tokens, 790 TFLOP/s: qkv takes 13 parts of 640 rows, 82 us
// each, and for each 9 us of this pass (31 MB read from L2 and 16 MB written, 6 us, and 3 for the
// gaps); the MLP's first product 16 parts of 87 us and 9: 8 ms of 200 for all layers. A bias that
// cuBLASLt adds would take 4 ms from that, and 3 more as qkv then fills its last wave better.
bool RunInParts(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                const Tensor& out, Activation activation) {
  const int64_t m = out.dim(0), n = out.dim(1);
  const int64_t fitting = kProductBytes / (n * SizeOf(DType::kFloat32)) / kProductRows;
  const int64_t rows = std::min(m, std::max<int64_t>(1, fitting) * kProductRows);
  void* scratch = context.Scratch(rows * n * SizeOf(DType::kFloat32));
  for (int64_t first = 0; first < m; first += rows) {
    const int64_t count = std::min(rows, m - first);
    const Tensor product(scratch, DType::kFloat32, out.device(), {count, n});
    const LibraryGemm::Done done =
        context.cublaslt_gemm().Run(context, x.Rows(first, count), weight, Tensor(), product,
                                    /*accumulate=*/false);
    if (done == LibraryGemm::Done::kNothing) {
      CHECK_EQ(first, 0);
      return false;
    }
    ApplyEpilogue(context, product, bias, activation, out.Rows(first, count));
  }
  return true;
}

// False, with nothing done, where cuBLASLt has nothing for the shapes.
bool RunLibrary(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
                const Tensor& out, const GemmOptions& options) {
  const bool plain = bias.empty() && options.activation == Activation::kNone;
  if (plain || out.dtype() == DType::kFloat32) {
    return RunInPlace(context, x, weight, bias, out, options);
  }
  return RunInParts(context, x, weight, bias, out, options.activation);
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
