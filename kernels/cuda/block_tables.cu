// Where the blocks of sequences lie: tables that stay on the device and are told what is new.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"

namespace polystrate::cuda {
namespace {

constexpr int kThreads = 128;
// Uploads are small beside what the ring holds; more go up in turns.
constexpr int64_t kBlocksAtOnce = (int64_t{1} << 20) / int64_t{sizeof(NewBlock)};

// Grid: blocks / kThreads. Block: kThreads. Shared memory: none. Moves 12 bytes and a sector of the
// tables for each.
__global__ void __launch_bounds__(kThreads)
    SetKernel(const NewBlock* blocks, int64_t count, int32_t* tables, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const NewBlock block = blocks[i];
  tables[block.row * stride + block.index] = block.block;
}

// Grid: rows. Block: kThreads. Shared memory: none. Moves 8 bytes per element: bound by memory, and
// for few rows by the way there twice, first for the row's number.
__global__ void __launch_bounds__(kThreads)
    GatherKernel(const int32_t* rows, const int32_t* tables, int64_t stride, int32_t* out,
                 int64_t out_stride, int columns) {
  const int32_t row = rows[blockIdx.x];
  int32_t* to = out + blockIdx.x * out_stride;
  for (int i = static_cast<int>(threadIdx.x); i < columns; i += kThreads) {
    to[i] = row < 0 ? 0 : tables[row * stride + i];
  }
}

}  // namespace

void SetBlocks(CudaContext& context, absl::Span<const NewBlock> blocks, const Tensor& tables) {
  while (!blocks.empty()) {
    const auto now = blocks.first(std::min<size_t>(blocks.size(), kBlocksAtOnce));
    const auto count = static_cast<int64_t>(now.size());
    Launch(context, SetKernel, dim3((count + kThreads - 1) / kThreads), dim3(kThreads), 0,
           context.Upload(now), count, tables.data<int32_t>(), tables.row_stride());
    blocks.remove_prefix(now.size());
  }
}

void GatherTables(CudaContext& context, const Tensor& rows, const Tensor& tables,
                  const Tensor& out) {
  Launch(context, GatherKernel, dim3(rows.dim(0)), dim3(kThreads), 0, rows.data<int32_t>(),
         tables.data<int32_t>(), tables.row_stride(), out.data<int32_t>(), out.row_stride(),
         static_cast<int>(out.dim(1)));
}

}  // namespace polystrate::cuda
