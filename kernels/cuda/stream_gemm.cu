// Few rows of bfloat16 or float16: the weights stream from memory into the tensor cores' registers.
//
// A warp multiplies tiles of 16 weight rows: the weights are the 16 x 16 operand of mma.m16n8k16,
// the rows of x its columns, 8 at a time. The order of k within a product is free, so lane (group,
// member) takes for its fragments what lies together in memory: 16 bytes of weight rows `group` and
// `group` + 8, and the same 16 bytes of x. No shared memory, no shuffles on the way. The 8 warps of
// a thread block share a tile's rows and split k among them; their sums meet in shared memory and
// are added in the order of the warps. Nothing depends on the number of rows of x, on n, or on
// chance.
//
// Grid: 2 thread blocks for each SM, all resident at once; block b has the weight rows [n b / grid,
// n (b + 1) / grid), an equal share to within one row, which it goes through 16 at a time: what is
// missing from its last tile is not loaded. So there are no waves, and no tail but that of unequal
// SMs. Where one block for each SM has a single tile, there is one: half of the registers are left
// for the next kernel, whose weights then come meanwhile. Block: 256 threads. Static shared memory:
// 10 KB (20 KB above 8 rows).
//
// Bytes: n k 2 for the weights, once, which bounds it. x is read through L1 and L2, by every tile:
// at 16 rows as many bytes as the weights, from L2. Under way for each SM: 2 blocks x 8 warps x 4
// steps x 2 KB = 128 KB, where 4.8 TB/s x 1 us / 132 SMs = 36 KB would do: the rest is for the time
// in which a warp multiplies and for SMs that are left alone with a tail.
//
// The kernel begins before the one in front of it has ended (LaunchEarly): its first 128 KB per SM
// of weights are on their way by the time that x is there.
//
// Where x is the norm of very few rows, each thread block norms them itself (normed_rows.cuh): it
// reads 16 KB from L2 for 4,096 elements, 0.3 us for all blocks of an SM, and sums them up for some
// 0.5 us, while a kernel in front would take 2 us. Two such products of the same rows share a
// launch: the first blocks have the one, the others the other, by their rows of weights. Where gate
// and up are multiplied, a tile is 8 rows of each, and the epilogue has both.
//
// Predicted for an H200 (4.8 TB/s, of which about 4.3 can be read), bfloat16, 1 row, launched
// early within a graph, weights not in L2:
//   n 4096,  k 4096:  33.6 MB:  7.8 us at 4.3 TB/s, plus 1 to 2 us of filling and draining
//   n 11008, k 4096:  90.2 MB: 21.0 us at 4.3 TB/s, plus 1 to 2 us
// Loads per SM and clock: 20 bytes; instructions issued: about a fifth of what an SM can.
#include <algorithm>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/normed_rows.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/skinny_gemm.h"

namespace polystrate::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBlocksPerSm = 2;
constexpr int kTileRows = 16;
constexpr int kStep = 64;    // elements of k that a warp takes of each row at a time: 128 bytes
constexpr int kDepth = 4;    // steps a warp has under way
constexpr int kMinRows = 4;  // of a thread block, lest tiny products read x more than weights
constexpr int kTokenTile = 8;
constexpr int kPartialStride = 20;  // floats; 16 are used, no bank is met twice
// Of rows that every block norms, all together: beyond, reading them takes longer than a kernel.
constexpr int64_t kMostNormed = 8192;
constexpr int64_t kMostNormBytes = int64_t{96} << 10;  // two blocks for an SM

enum class RowNorm : uint8_t { kNone, kRms, kLayer };

struct StreamTask {
  const void* weight;  // [n, k]
  const void* x;       // [num_tokens, k]; with a norm, norm.x instead
  int64_t x_stride;
  NormedRowsTask norm;
  int64_t n;
  int k;
  int num_tokens;
  int rounds;  // steps of every warp for a tile, a multiple of kDepth; the last may lie beyond k
  Epilogue epilogue;
  Activation gate;  // of a gated product, whose weight is [2 n, k]
};

// Products of one launch: blocks [0, first_blocks) have the first, the others the second.
template <int kProducts>
struct StreamTasks {
  StreamTask tasks[kProducts];
  unsigned first_blocks = 0;
};

// The first element of k that this lane takes in its warp's first step of a row; in the step's
// other half it takes what lies kStep / 2 further.
__device__ __forceinline__ int FirstColumn() {
  return static_cast<int>(threadIdx.x / 32 * kStep + threadIdx.x % 4 * 8);
}
__device__ __forceinline__ int Group() { return static_cast<int>(threadIdx.x % 32 / 4); }

// Results of a tile.
template <bool kGated>
inline constexpr int kTileResults = kGated ? kTileRows / 2 : kTileRows;

// Goes through a lane's weights: the steps of a tile, then the next tile's.
template <typename T, bool kGated>
class WeightReader {
 public:
  // For results [begin, end).
  __device__ WeightReader(const StreamTask& task, int64_t begin, int64_t end)
      : from_(static_cast<const T*>(task.weight) + (begin + Group()) * task.k + FirstColumn()),
        rows_left_(static_cast<int>(end - begin) - Group()),
        column_(FirstColumn()) {}

  // w[2 half + i]: 16 bytes of tile row `group` + 8 i; of a gated tile the upper rows are up's.
  __device__ __forceinline__ void Next(const StreamTask& task, uint4 (&w)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool in_row = column_ + half * (kStep / 2) < task.k;
      const T* low = from_ + half * (kStep / 2);
      w[2 * half] = LoadStreaming(low, in_row && rows_left_ > 0);
      w[2 * half + 1] = LoadStreaming(low + (kGated ? task.n : int64_t{8}) * task.k,
                                      in_row && rows_left_ > (kGated ? 0 : 8));
    }
    from_ += kWarps * kStep;
    column_ += kWarps * kStep;
    if (column_ >= task.rounds * kWarps * kStep) NextTile(task);
  }

 private:
  __device__ __forceinline__ void NextTile(const StreamTask& task) {
    from_ += static_cast<int64_t>(kTileResults<kGated>) * task.k - task.rounds * kWarps * kStep;
    column_ = FirstColumn();
    rows_left_ -= kTileResults<kGated>;
  }

  const T* from_;
  int rows_left_;  // from this lane's first row of the tile on
  int column_;
};

// sums[tile] += (16 weight rows) (8 rows of x, x_stride apart), over one step of k. x_lane: where
// this lane's values of its first row of x begin.
template <typename T, int kTokenTiles>
__device__ __forceinline__ void Multiply(const StreamTask& task, const T* x_lane, int64_t x_stride,
                                         int round, const uint4 (&w)[4],
                                         float (&sums)[kTokenTiles][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int offset = round * kWarps * kStep + half * (kStep / 2);
    const bool in_row = FirstColumn() + offset < task.k;
    const uint4 low = w[2 * half], high = w[2 * half + 1];
#pragma unroll
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      uint4 x = {0, 0, 0, 0};
      if (in_row && tile * kTokenTile + Group() < task.num_tokens) {
        x = *reinterpret_cast<const uint4*>(x_lane + tile * kTokenTile * x_stride + offset);
      }
      Mma16816<T>(sums[tile], {low.x, high.x, low.y, high.y}, {x.x, x.y});
      Mma16816<T>(sums[tile], {low.z, high.z, low.w, high.w}, {x.z, x.w});
    }
  }
}

template <int kTokenTiles>
using Partials = float[kWarps][kTokenTiles * kTokenTile][kPartialStride];

// The warps' sums of the tile at `row` become results. One barrier; the partials are free again
// after the next one.
template <typename T, int kTokenTiles, bool kGated>
__device__ __forceinline__ void FinishTile(const StreamTask& task, int64_t row, int64_t end,
                                           const float (&sums)[kTokenTiles][4],
                                           Partials<kTokenTiles>& partials) {
  const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < kTokenTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      partials[warp][tile * kTokenTile + 2 * member + i % 2][group + 8 * (i / 2)] = sums[tile][i];
    }
  }
  __syncthreads();
  const int token = threadIdx.x / kTileResults<kGated>;
  const int tile_row = threadIdx.x % kTileResults<kGated>;
  if (token >= task.num_tokens || row + tile_row >= end) return;
  float sum = 0.0f, up = 0.0f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    sum += partials[w][token][tile_row];
    if constexpr (kGated) up += partials[w][token][tile_row + kTileRows / 2];
  }
  // Rounded as they are where they go through memory in between.
  if constexpr (kGated) {
    sum = Activate(ToFloat(FromFloat<T>(sum)), task.gate) * ToFloat(FromFloat<T>(up));
  }
  Finish(task.epilogue, token, row + tile_row, sum);
}

// Shared memory with a norm: NormedRows.
template <typename T, int kTokenTiles, RowNorm kNorm, int kProducts, bool kGated>
__global__ void __launch_bounds__(kWarps * 32, kBlocksPerSm)
    StreamGemmKernel(const __grid_constant__ StreamTasks<kProducts> all) {
  __shared__ Partials<kTokenTiles> partials[2];
  LetNextKernelStart();
  const bool second = kProducts > 1 && blockIdx.x >= all.first_blocks;
  const StreamTask& task = all.tasks[second ? kProducts - 1 : 0];
  const unsigned block = second ? blockIdx.x - all.first_blocks : blockIdx.x;
  const unsigned blocks = second ? gridDim.x - all.first_blocks : all.first_blocks;
  const int64_t begin = task.n * block / blocks;
  const int64_t end = task.n * (block + 1) / blocks;
  WeightReader<T, kGated> weights(task, begin, end);
  uint4 w[kDepth][4];
#pragma unroll
  for (int i = 0; i < kDepth; ++i) weights.Next(task, w[i]);
  const T* x = static_cast<const T*>(task.x);
  int64_t x_stride = task.x_stride;
  if constexpr (kNorm == RowNorm::kNone) {
    WaitForKernelBefore();
  } else {
    const NormedRows<T, kNorm == RowNorm::kLayer, kWarps> rows(task.norm, task.num_tokens, task.k);
    rows.CopyWeights();
    WaitForKernelBefore();
    x = rows.Finish();
    x_stride = rows.stride();
  }
  const T* x_lane = x + Group() * x_stride + FirstColumn();
  int buffer = 0;
  for (int64_t row = begin; row < end; row += kTileResults<kGated>) {
    float sums[kTokenTiles][4] = {};
    for (int round = 0; round < task.rounds; round += kDepth) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        Multiply<T, kTokenTiles>(task, x_lane, x_stride, round + i, w[i], sums);
        weights.Next(task, w[i]);
      }
    }
    FinishTile<T, kTokenTiles, kGated>(task, row, end, sums, partials[buffer]);
    buffer ^= 1;
  }
}

template <typename T, int kTokenTiles, RowNorm kNorm, int kProducts = 1, bool kGated = false>
void Start(const CudaContext& context, StreamTasks<kProducts> all, int64_t shared_bytes) {
  int64_t rows = 0, blocks = 0;
  for (const StreamTask& task : all.tasks) {
    rows += task.n;
    blocks += (task.n + kMinRows - 1) / kMinRows;
  }
  const int64_t num_sms = context.properties().num_sms;
  blocks =
      std::min(blocks, rows <= kTileResults<kGated> * num_sms ? num_sms : kBlocksPerSm * num_sms);
  all.first_blocks = static_cast<unsigned>(
      kProducts == 1 ? blocks : std::clamp<int64_t>(blocks * all.tasks[0].n / rows, 1, blocks - 1));
  LaunchEarly(context, StreamGemmKernel<T, kTokenTiles, kNorm, kProducts, kGated>,
              static_cast<unsigned>(blocks), kWarps * 32, shared_bytes, all);
}

bool InSteps(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 &&
         x.row_stride() * SizeOf(x.dtype()) % 16 == 0;
}

bool CanStream(const Tensor& weight) {
  const int64_t k = weight.dim(1);
  CHECK_LE(k, int64_t{1} << 30);
  return SizeOf(weight.dtype()) == 2 && k > 0 && k % 8 == 0 && InSteps(weight);
}

// All but x.
StreamTask MakeTask(const Tensor& weight, int64_t num_tokens, const Tensor& bias, const Tensor& out,
                    const GemmOptions& options) {
  constexpr int64_t kRound = kWarps * kStep * kDepth;
  const int64_t k = weight.dim(1);
  StreamTask task = {};
  task.weight = weight.raw();
  task.n = weight.dim(0);
  task.k = static_cast<int>(k);
  task.num_tokens = static_cast<int>(num_tokens);
  task.rounds = static_cast<int>((k + kRound - 1) / kRound) * kDepth;
  task.epilogue = EpilogueOf(bias, out, options);
  return task;
}

// The type of two bytes.
template <typename F>
void DispatchHalf(DType dtype, F&& f) {
  if (dtype == DType::kBFloat16) return f(static_cast<__nv_bfloat16*>(nullptr));
  f(static_cast<__half*>(nullptr));
}

bool CanNorm(const Tensor& x, const NormProduct& product) {
  const int64_t m = x.dim(0), k = x.dim(1);
  const NormOptions& norm = product.norm;
  if (!norm.add.empty() || m > kTokenTile || m * k > kMostNormed) return false;
  if (!CanStream(product.weight) || !InSteps(x)) return false;
  for (const Tensor& t : {norm.weight, norm.bias}) {
    if (!t.empty() && !PacksAligned(t, k, kNormPack)) return false;
  }
  const int64_t bytes = NormedBytes(m, k, !norm.bias.empty());
  return bytes <= kMostNormBytes;
}

StreamTask MakeTask(const Tensor& x, const NormProduct& product) {
  StreamTask task = MakeTask(product.weight, x.dim(0), product.bias, product.out, product.options);
  task.norm.x = x.data<float>();
  task.norm.x_stride = x.row_stride();
  task.norm.weight = product.norm.weight.data<float>();
  task.norm.bias = product.norm.bias.empty() ? nullptr : product.norm.bias.data<float>();
  task.norm.epsilon = product.norm.epsilon;
  return task;
}

template <int kProducts>
void StartNormed(const CudaContext& context, const StreamTasks<kProducts>& all, DType dtype) {
  const StreamTask& task = all.tasks[0];
  const int64_t bytes = NormedBytes(task.num_tokens, task.k, task.norm.bias != nullptr);
  DispatchHalf(dtype, [&]<typename T>(T*) {
    if (task.norm.bias != nullptr) {
      Start<T, 1, RowNorm::kLayer>(context, all, bytes);
    } else {
      Start<T, 1, RowNorm::kRms>(context, all, bytes);
    }
  });
}

}  // namespace

bool StreamGemm(const CudaContext& context, const Tensor& x, const Tensor& weight,
                const Tensor& bias, const Tensor& out, const GemmOptions& options) {
  if (!CanStream(weight) || !InSteps(x)) return false;
  StreamTask task = MakeTask(weight, x.dim(0), bias, out, options);
  task.x = x.raw();
  task.x_stride = x.row_stride();
  DispatchHalf(x.dtype(), [&]<typename T>(T*) {
    if (task.num_tokens <= kTokenTile) return Start<T, 1, RowNorm::kNone, 1>(context, {{task}}, 0);
    Start<T, 2, RowNorm::kNone, 1>(context, {{task}}, 0);
  });
  return true;
}

bool NormGemm(const CudaContext& context, const Tensor& x, const NormProduct& product) {
  if (!CanNorm(x, product)) return false;
  StartNormed<1>(context, {{MakeTask(x, product)}}, product.weight.dtype());
  return true;
}

bool GatedNormGemm(const CudaContext& context, const Tensor& x, const NormProduct& gate_up,
                   Activation activation, const Tensor& out) {
  if (!CanNorm(x, gate_up) || !gate_up.norm.bias.empty() || !gate_up.bias.empty()) return false;
  if (out.dtype() != gate_up.weight.dtype()) return false;
  StreamTask task = MakeTask(x, gate_up);
  task.n = out.dim(1);
  task.epilogue = EpilogueOf(/*bias=*/Tensor(), out, {});
  task.gate = activation;
  DispatchHalf(gate_up.weight.dtype(), [&]<typename T>(T*) {
    Start<T, 1, RowNorm::kRms, 1, true>(context, {{task}},
                                        NormedBytes(task.num_tokens, task.k, /*centered=*/false));
  });
  return true;
}

bool NormGemms(const CudaContext& context, const Tensor& x, const NormProduct& first,
               const NormProduct& second) {
  if (!CanNorm(x, first) || !CanNorm(x, second)) return false;
  if (first.norm.bias.empty() != second.norm.bias.empty()) return false;
  StartNormed<2>(context, {{MakeTask(x, first), MakeTask(x, second)}}, first.weight.dtype());
  return true;
}

}  // namespace polystrate::cuda
