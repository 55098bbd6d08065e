// The norms.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/normed_rows.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {
namespace {

constexpr int kPack = kNormPack;
constexpr int kMaxPacks = kMaxNormPacks;
constexpr int kMaxThreads = kMaxNormThreads;
constexpr int kThreadsPerBlock =
    kNormBlockThreads;  // short parts share a block until it has so many

// What is normed are the parts of a matrix's rows, of `n` elements each: all of a row, or a head.
template <typename In, typename Out>
struct NormParams {
  In* x;
  int64_t x_stride;
  const float* add;  // x += add first; null: not
  int64_t add_stride;
  const float* weight;
  const float* bias;  // of LayerNorm
  Out* out;           // may be x, unless add is given
  int64_t out_stride;
  int num_parts;  // of all rows
  int parts_per_row;
  int n;
  float epsilon;
};

// Where one part lies, of which a thread sees `n` elements: none behind the last part, where it
// only takes part in the sums of others.
template <typename In, typename Out>
struct NormPart {
  In* x;
  Out* out;
  int64_t add;  // offset
  int n;
};

template <typename In, typename Out>
__device__ __forceinline__ NormPart<In, Out> PartOf(const NormParams<In, Out>& p) {
  const int part = blockIdx.x * blockDim.y + threadIdx.y;
  if (part >= p.num_parts) return {p.x, p.out, 0, 0};
  const int row = part / p.parts_per_row, column = (part - row * p.parts_per_row) * p.n;
  return {p.x + row * p.x_stride + column, p.out + row * p.out_stride + column,
          row * p.add_stride + column, p.n};
}

// x = the pack from `column` on; with an addend their sum, which also goes to the tensor.
template <typename In, typename Out, int kSize>
__device__ __forceinline__ void LoadSum(const NormParams<In, Out>& p, const NormPart<In, Out>& part,
                                        int column, float (&x)[kSize]) {
  LoadPack(part.x + column, x);
  if (p.add == nullptr) return;
  float add[kSize];
  LoadPack(p.add + part.add + column, add);
#pragma unroll
  for (int i = 0; i < kSize; ++i) x[i] += add[i];
  StorePack(x, part.x + column);
}

// Grid: parts / blockDim.y. Block: (threads of a part, parts), the former from n alone, so that a
// row's bits do not depend on how many there are. Shared memory: 128 bytes. Moves x, add and out
// once (x twice with add), weight and bias mostly from L2: bound by memory; where the rows are few,
// by one way there, for which all loads are on their way before the first sum, and the sums. The
// weights come while the kernel before still runs.
template <typename In, typename Out, bool kCentered, int kPacks>
__global__ void __launch_bounds__(kMaxThreads) NormKernel(const NormParams<In, Out> p) {
  __shared__ float partials[kMaxWarps];
  LetNextKernelStart();
  constexpr bool kEarlyBias = kCentered && kPacks < kMaxPacks;  // there are registers for it
  const NormPart<In, Out> part = PartOf(p);
  float x[kPacks][kPack] = {}, weight[kPacks][kPack], bias[kPacks][kPack];
  float sum = 0.0f, squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = kPack * (threadIdx.x + k * blockDim.x);
    if (column >= part.n) continue;
    LoadPack(p.weight + column, weight[k]);
    if constexpr (kEarlyBias) LoadPack(p.bias + column, bias[k]);
  }
  WaitForKernelBefore();
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = kPack * (threadIdx.x + k * blockDim.x);
    if (column < part.n) LoadSum(p, part, column, x[k]);
  }
#pragma unroll
  for (int k = 0; k < kPacks; ++k) sum += (x[k][0] + x[k][1]) + (x[k][2] + x[k][3]);
  const float n = static_cast<float>(p.n);
  const float mean = kCentered ? RowSum(sum, partials) / n : 0.0f;
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    if (static_cast<int>(kPack * (threadIdx.x + k * blockDim.x)) >= part.n) continue;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      x[k][i] -= mean;
      squares = fmaf(x[k][i], x[k][i], squares);
    }
  }
  const float scale = 1.0f / sqrtf(RowSum(squares, partials) / n + p.epsilon);
#pragma unroll
  for (int k = 0; k < kPacks; ++k) {
    const int column = kPack * (threadIdx.x + k * blockDim.x);
    if (column >= part.n) continue;
    if constexpr (kCentered && !kEarlyBias) LoadPack(p.bias + column, bias[k]);
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float normed = x[k][i] * scale;
      x[k][i] = kCentered ? fmaf(normed, weight[k][i], bias[k][i]) : normed * weight[k][i];
    }
    StorePack(x[k], part.out + column);
  }
}

// Parts that are not aligned to packs, or too long for registers: the same element by element, x
// read three times, the second and third time from L2 or nearer. Grid, block and shared memory as
// above.
template <typename In, typename Out, bool kCentered>
__global__ void __launch_bounds__(kMaxThreads) PlainNormKernel(const NormParams<In, Out> p) {
  __shared__ float partials[kMaxWarps];
  LetNextKernelStart();
  WaitForKernelBefore();
  const NormPart<In, Out> part = PartOf(p);
  float x[1];
  float sum = 0.0f, squares = 0.0f;
  for (int column = threadIdx.x; column < part.n; column += blockDim.x) {
    LoadSum(p, part, column, x);
    sum += x[0];
  }
  const float n = static_cast<float>(p.n);
  const float mean = kCentered ? RowSum(sum, partials) / n : 0.0f;
  for (int column = threadIdx.x; column < part.n; column += blockDim.x) {
    const float d = ToFloat(part.x[column]) - mean;
    squares = fmaf(d, d, squares);
  }
  const float scale = 1.0f / sqrtf(RowSum(squares, partials) / n + p.epsilon);
  for (int column = threadIdx.x; column < part.n; column += blockDim.x) {
    const float normed = (ToFloat(part.x[column]) - mean) * scale, weight = p.weight[column];
    const float y = kCentered ? fmaf(normed, weight, p.bias[column]) : normed * weight;
    part.out[column] = FromFloat<Out>(y);
  }
}

template <bool kCentered, typename In, typename Out>
void LaunchNorm(const CudaContext& context, const NormParams<In, Out>& p, bool aligned) {
  if (p.n == 0 || p.num_parts == 0) return;
  const bool plain = !aligned || p.n > kPack * kMaxPacks * kMaxThreads;
  const NormShares shares = NormSharesOf(p.n);
  const int per_thread = shares.packs;
  const int width =
      plain ? (std::min(p.n, kThreadsPerBlock) + kWarp - 1) / kWarp * kWarp : shares.width;
  const int parts = std::clamp(kThreadsPerBlock / width, 1, p.num_parts);
  const auto kernel = plain             ? PlainNormKernel<In, Out, kCentered>
                      : per_thread == 1 ? NormKernel<In, Out, kCentered, 1>
                      : per_thread == 2 ? NormKernel<In, Out, kCentered, 2>
                                        : NormKernel<In, Out, kCentered, kMaxPacks>;
  LaunchEarly(context, kernel, dim3((p.num_parts + parts - 1) / parts), dim3(width, parts), 0, p);
}

// Of whole rows of float32; bias: empty for RmsNorm.
template <bool kCentered>
void NormRows(const CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
              float epsilon, const Tensor& out, const Tensor& add) {
  const int64_t n = x.dim(1);
  bool aligned = true;
  for (const Tensor& t : {x, weight, bias, out, add}) {
    aligned = aligned && (t.empty() || PacksAligned(t, n, kPack));
  }
  DispatchType(out.dtype(), [&]<typename T>(T*) {
    NormParams<float, T> p = {};
    p.x = x.data<float>();
    p.x_stride = x.row_stride();
    p.add = add.empty() ? nullptr : add.data<float>();
    p.add_stride = add.row_stride();
    p.weight = weight.data<float>();
    p.bias = kCentered ? bias.data<float>() : nullptr;
    p.out = static_cast<T*>(out.raw());
    p.out_stride = out.row_stride();
    p.num_parts = static_cast<int>(x.dim(0));
    p.parts_per_row = 1;
    p.n = static_cast<int>(n);
    p.epsilon = epsilon;
    LaunchNorm<kCentered>(context, p, aligned);
  });
}

}  // namespace

void LayerNorm(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add) {
  NormRows<true>(context, x, weight, bias, epsilon, out, add);
}

void RmsNorm(CudaContext& context, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add) {
  NormRows<false>(context, x, weight, Tensor(), epsilon, out, add);
}

void HeadRmsNorm(CudaContext& context, const Tensor& weight, float epsilon, const Tensor& x) {
  const int64_t head_dim = weight.dim(0);
  DispatchType(x.dtype(), [&]<typename T>(T*) {
    NormParams<T, T> p = {};
    p.x = p.out = static_cast<T*>(x.raw());
    p.x_stride = p.out_stride = x.row_stride();
    p.weight = weight.data<float>();
    p.parts_per_row = static_cast<int>(x.dim(1) / head_dim);
    p.num_parts = static_cast<int>(x.dim(0)) * p.parts_per_row;
    p.n = static_cast<int>(head_dim);
    p.epsilon = epsilon;
    LaunchNorm<false>(context, p,
                      PacksAligned(weight, head_dim, kPack) && PacksAligned(x, head_dim, kPack));
  });
}

}  // namespace polystrate::cuda
