#include <algorithm>

#include "kernels/cpu/ops.h"

namespace polystrate::cpu {

void SetBlocks(CpuContext&, absl::Span<const NewBlock> blocks, const Tensor& tables) {
  for (const NewBlock& block : blocks) {
    tables.data<int32_t>()[block.row * tables.row_stride() + block.index] = block.block;
  }
}

void GatherTables(CpuContext&, const Tensor& rows, const Tensor& tables, const Tensor& out) {
  for (int64_t i = 0; i < rows.dim(0); ++i) {
    const int32_t row = rows.data<int32_t>()[i];
    int32_t* to = out.data<int32_t>() + i * out.row_stride();
    if (row < 0) {
      std::fill_n(to, out.dim(1), 0);
      continue;
    }
    CHECK_LT(row, tables.dim(0));
    std::copy_n(tables.data<int32_t>() + row * tables.row_stride(), out.dim(1), to);
  }
}

}  // namespace polystrate::cpu
