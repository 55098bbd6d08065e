// Few rows: own dot products, bound by the weights' bytes. Many rows: oneDNN, bound by arithmetic.
#include <algorithm>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace polystrate::cpu {
namespace {

// From here on oneDNN's blocking wins over reading each weight row once per tile of activations.
constexpr int64_t kLibraryRows = 33;
// A task's results stay in the L1 cache until the epilogue has passed over them.
constexpr int64_t kRowsPerPass = 64;
constexpr int64_t kColumnsPerTask = 64;

// Columns [begin, end) of rows [first, first + num_rows) of out.
void DotBlock(const CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
              const Tensor& out, const GemmOptions& options, int64_t begin, int64_t end,
              int64_t first, int64_t num_rows) {
  alignas(64) float acc[kRowsPerPass * kColumnsPerTask];
  const int64_t size = SizeOf(x.dtype()), n = end - begin;
  DotTask task;
  task.x = static_cast<const char*>(x.raw()) + first * x.row_stride() * size;
  task.x_stride = x.row_stride();
  task.num_rows = static_cast<int>(num_rows);
  task.weight = static_cast<const char*>(weight.raw()) + begin * weight.dim(1) * size;
  task.n = static_cast<int>(n);
  task.k = weight.dim(1);
  task.out = acc;
  task.out_stride = n;
  context.kernels(x.dtype()).dot(task);
  const float* bias_row = bias.empty() ? nullptr : bias.data<float>() + begin;
  const TypedKernels& kernels = context.kernels(out.dtype());
  for (int64_t r = 0; r < num_rows; ++r) {
    const int64_t at = (first + r) * out.row_stride() + begin;
    if (options.accumulate) {
      float* to = out.data<float>() + at;
      context.kernels().add(acc + r * n, n, to);
      if (bias_row != nullptr) context.kernels().add(bias_row, n, to);
    } else {
      kernels.epilogue(acc + r * n, bias_row, ToEpilogue(options.activation), n,
                       static_cast<char*>(out.raw()) + at * SizeOf(out.dtype()));
    }
  }
}

void DotGemm(const CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
             const Tensor& out, const GemmOptions& options) {
  const int64_t m = x.dim(0), n = weight.dim(0);
  ParallelForRanges(context, n, kColumnsPerTask, m * weight.num_elements(),
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t first = 0; first < m; first += kRowsPerPass) {
                        DotBlock(context, x, weight, bias, out, options, begin, end, first,
                                 std::min(kRowsPerPass, m - first));
                      }
                    });
}

}  // namespace

Epilogue ToEpilogue(Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return Epilogue::kNone;
    case Activation::kGelu:
      return Epilogue::kGelu;
    case Activation::kGeluTanh:
      return Epilogue::kGeluTanh;
    case Activation::kRelu:
      return Epilogue::kRelu;
    case Activation::kSilu:
      return Epilogue::kSilu;
  }
  return Epilogue::kNone;
}

void Gemm(CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options) {
  if (x.dim(0) >= kLibraryRows && weight.dim(1) > 0 &&
      context.onednn_gemm().Run(x, weight, bias, out, options)) {
    return;
  }
  DotGemm(context, x, weight, bias, out, options);
}

}  // namespace polystrate::cpu
