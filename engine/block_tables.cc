#include "engine/block_tables.h"

#include <algorithm>
#include <bit>

#include "engine/decode_graphs.h"
#include "kernels/core/copy.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Wide enough for what decode steps are padded to.
DecodeShape LargestShape(int64_t max_num_seqs, int64_t max_blocks) {
  return PadDecodeShape(max_num_seqs, std::max<int64_t>(1, max_blocks));
}

}  // namespace

int64_t BlockTables::NumBytes(int64_t max_num_seqs, int64_t max_blocks) {
  const DecodeShape largest = LargestShape(max_num_seqs, max_blocks);
  return 2 * largest.num_seqs * largest.max_blocks * SizeOf(DType::kInt32);
}

absl::StatusOr<BlockTables> BlockTables::Create(const Stream& stream, int64_t max_num_seqs,
                                                int64_t max_blocks) {
  BlockTables tables;
  const DecodeShape largest = LargestShape(max_num_seqs, max_blocks);
  const int64_t num_bytes = NumBytes(max_num_seqs, max_blocks) / 2;
  ASSIGN_OR_RETURN(tables.buffer_, Buffer::Allocate(stream.device(), num_bytes));
  ASSIGN_OR_RETURN(tables.gathered_buffer_, Buffer::Allocate(stream.device(), num_bytes));
  tables.tables_ = Tensor(tables.buffer_.data(), DType::kInt32, stream.device(),
                          {largest.num_seqs, largest.max_blocks});
  tables.rows_.reserve(static_cast<size_t>(largest.num_seqs));
  // What kernels load beside a sequence's blocks is some block's number, too.
  const std::vector<int32_t> zeros(tables.tables_.num_elements(), 0);
  CopyNow(Tensor(const_cast<int32_t*>(zeros.data()), DType::kInt32, Device{},
                 {largest.num_seqs, largest.max_blocks}),
          tables.tables_);
  return tables;
}

void BlockTables::Take(const Stream& stream, const StepPlan& plan) {
  if (plan.new_blocks.empty()) return;
  SetBlocks(stream, plan.new_blocks, tables_);
  changed_ = true;
}

Tensor BlockTables::Gather(const Stream& stream, const StepPlan& plan, int64_t num_seqs,
                           int64_t max_blocks) {
  CHECK_LE(plan.num_seqs(), num_seqs);
  CHECK_EQ(plan.table_rows.size(), plan.context_lens.size());
  CHECK(num_seqs <= tables_.dim(0) && max_blocks <= tables_.dim(1));
  const bool same = !changed_ && gathered_.dim(0) == num_seqs && gathered_.dim(1) == max_blocks &&
                    std::equal(plan.table_rows.begin(), plan.table_rows.end(), rows_.begin()) &&
                    std::all_of(rows_.begin() + plan.num_seqs(), rows_.end(),
                                [](int32_t row) { return row < 0; });
  if (same) return gathered_;  // as it is mostly between one token and the next
  rows_ = plan.table_rows;
  rows_.resize(static_cast<size_t>(num_seqs), -1);
  gathered_ =
      Tensor(gathered_buffer_.data(), DType::kInt32, stream.device(), {num_seqs, max_blocks});
  GatherTables(stream, Upload(stream, rows_, {num_seqs}), tables_, gathered_);
  changed_ = false;
  return gathered_;
}

}  // namespace polystrate
