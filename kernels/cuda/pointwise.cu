// Operators that touch each element once: embedding, gating, addition, concatenation. A block has
// kThreads packs of one row, so that no index needs a division. (The norms: norm.cu.)
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/packs.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFloats = kAccessBytes / sizeof(float);

// Rows are many, packs of a row few.
dim3 RowGrid(int64_t rows, int64_t columns, int pack) {
  const int64_t per_block = int64_t{kThreads} * pack;
  return dim3(rows, (columns + per_block - 1) / per_block);
}

// Where this thread's pack begins in its row.
template <int kPack>
__device__ __forceinline__ int64_t FirstColumn() {
  return int64_t{kPack} * (int64_t{blockIdx.y} * kThreads + threadIdx.x);
}

template <typename T>
struct LookupParams {
  const int32_t* ids;
  const int32_t* drawn;  // may be null
  const T* table;
  int64_t table_stride;
  int64_t table_rows;
  int64_t vocab_begin;
  float* out;
  int64_t out_stride;
  int64_t columns;
};

// Grid: (tokens, chunks of a row). Block: kThreads. Shared memory: none. Moves a row of the table
// and one of out for each token: bound by memory, and for few tokens by the way there twice, first
// for the id, or thrice, if that is a fed token.
template <typename T, int kPack>
__global__ void __launch_bounds__(kThreads) LookupKernel(const LookupParams<T> p) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const int64_t column = FirstColumn<kPack>();
  if (column >= p.columns) return;
  int32_t id = p.ids[blockIdx.x];
  if (id < 0 && p.drawn != nullptr) id = max(p.drawn[FedToken(id)], 0);
  const int64_t row = id - p.vocab_begin;
  float values[kPack] = {};
  if (row >= 0 && row < p.table_rows) LoadPack(p.table + row * p.table_stride + column, values);
  StorePack(values, p.out + blockIdx.x * p.out_stride + column);
}

template <typename T>
struct GateParams {
  const T* gate_up;
  int64_t gate_up_stride;
  T* out;
  int64_t out_stride;
  int64_t n;
};

// Grid: (tokens, chunks of a row). Block: kThreads. Shared memory: none. Moves 2 n elements in and
// n out for each token: bound by memory.
template <typename T, Activation kActivation, int kPack>
__global__ void __launch_bounds__(kThreads) GateKernel(const GateParams<T> p) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const int64_t column = FirstColumn<kPack>();
  if (column >= p.n) return;
  const T* from = p.gate_up + blockIdx.x * p.gate_up_stride + column;
  float gate[kPack], up[kPack];
  LoadPack(from, gate);
  LoadPack(from + p.n, up);
#pragma unroll
  for (int i = 0; i < kPack; ++i) gate[i] = Activate(gate[i], kActivation) * up[i];
  StorePack(gate, p.out + blockIdx.x * p.out_stride + column);
}

template <typename T, int kPack>
auto GateKernelFor(Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return GateKernel<T, Activation::kNone, kPack>;
    case Activation::kGelu:
      return GateKernel<T, Activation::kGelu, kPack>;
    case Activation::kGeluTanh:
      return GateKernel<T, Activation::kGeluTanh, kPack>;
    case Activation::kRelu:
      return GateKernel<T, Activation::kRelu, kPack>;
    case Activation::kSilu:
      break;
  }
  return GateKernel<T, Activation::kSilu, kPack>;
}

// Grid: (rows, chunks of a row). Block: kThreads. Shared memory: none. Moves 12 bytes per element:
// bound by memory.
template <int kPack>
__global__ void __launch_bounds__(kThreads)
    AddKernel(const float* y, int64_t y_stride, float* x, int64_t x_stride, int64_t columns) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const int64_t column = FirstColumn<kPack>();
  if (column >= columns) return;
  float* to = x + blockIdx.x * x_stride + column;
  float a[kPack], b[kPack];
  LoadPack(to, a);
  LoadPack(y + blockIdx.x * y_stride + column, b);
#pragma unroll
  for (int i = 0; i < kPack; ++i) a[i] += b[i];
  StorePack(a, to);
}

// Grid: (tokens, chunks of a part's row, parts). Block: kThreads. Shared memory: none. Moves 8
// bytes per element: bound by memory.
//   parts: [gridDim.z, gridDim.x, n], contiguous.
template <int kPack>
__global__ void __launch_bounds__(kThreads)
    ConcatKernel(const float* parts, int64_t n, float* out, int64_t out_stride) {
  LetNextKernelStart();
  WaitForKernelBefore();
  const int64_t column = FirstColumn<kPack>();
  if (column >= n) return;
  const int64_t token = blockIdx.x, part = blockIdx.z;
  float values[kPack];
  LoadPack(parts + (part * gridDim.x + token) * n + column, values);
  StorePack(values, out + token * out_stride + part * n + column);
}

}  // namespace

void EmbeddingLookup(CudaContext& context, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn) {
  const int64_t columns = table.dim(1);
  const bool aligned = PacksAligned(table, columns, kFloats) && PacksAligned(out, columns, kFloats);
  DispatchType(table.dtype(), [&]<typename T>(T*) {
    LookupParams<T> p = {};
    p.ids = ids.data<int32_t>();
    p.drawn = drawn.empty() ? nullptr : drawn.data<int32_t>();
    p.table = static_cast<const T*>(table.raw());
    p.table_stride = table.row_stride();
    p.table_rows = table.dim(0);
    p.vocab_begin = vocab_begin;
    p.out = out.data<float>();
    p.out_stride = out.row_stride();
    p.columns = columns;
    LaunchEarly(context, aligned ? LookupKernel<T, kFloats> : LookupKernel<T, 1>,
                RowGrid(ids.dim(0), columns, aligned ? kFloats : 1), dim3(kThreads), 0, p);
  });
}

void GatedActivation(CudaContext& context, const Tensor& gate_up, Activation activation,
                     const Tensor& out) {
  const int64_t n = out.dim(1);
  DispatchType(out.dtype(), [&]<typename T>(T*) {
    GateParams<T> p = {};
    p.gate_up = static_cast<const T*>(gate_up.raw());
    p.gate_up_stride = gate_up.row_stride();
    p.out = static_cast<T*>(out.raw());
    p.out_stride = out.row_stride();
    p.n = n;
    constexpr int kPack = kAccessBytes / sizeof(T);
    const bool aligned = PacksAligned(gate_up, n, kPack) && PacksAligned(out, n, kPack);
    LaunchEarly(context,
                aligned ? GateKernelFor<T, kPack>(activation) : GateKernelFor<T, 1>(activation),
                RowGrid(out.dim(0), n, aligned ? kPack : 1), dim3(kThreads), 0, p);
  });
}

void AddInPlace(CudaContext& context, const Tensor& y, const Tensor& x) {
  const int64_t columns = x.dim(1);
  const bool aligned = PacksAligned(x, columns, kFloats) && PacksAligned(y, columns, kFloats);
  LaunchEarly(context, aligned ? AddKernel<kFloats> : AddKernel<1>,
              RowGrid(x.dim(0), columns, aligned ? kFloats : 1), dim3(kThreads), 0, y.data<float>(),
              y.row_stride(), x.data<float>(), x.row_stride(), columns);
}

void ConcatColumns(CudaContext& context, const Tensor& parts, const Tensor& out) {
  const int64_t n = parts.dim(2);
  const bool aligned = PacksAligned(parts, n, kFloats) && PacksAligned(out, n, kFloats);
  dim3 grid = RowGrid(parts.dim(1), n, aligned ? kFloats : 1);
  grid.z = static_cast<unsigned>(parts.dim(0));
  LaunchEarly(context, aligned ? ConcatKernel<kFloats> : ConcatKernel<1>, grid, dim3(kThreads), 0,
              parts.data<float>(), n, out.data<float>(), out.row_stride());
}

}  // namespace polystrate::cuda
