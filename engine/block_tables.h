// BlockTables: where the KV blocks of all sequences that run lie, kept on a stage's device by what
// plans say is new. A plan carries a block's number once, not with every step that reads the block:
// of 14,336 sequences of 2,000 tokens that would be 7 MB a step, to every rank.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step_plan.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

class BlockTables {
 public:
  // For plans of up to max_num_seqs sequences of up to max_blocks blocks. Takes its memory now.
  static absl::StatusOr<BlockTables> Create(const Stream& stream, int64_t max_num_seqs,
                                            int64_t max_blocks);

  // What GPUs need for it.
  static int64_t NumBytes(int64_t max_num_seqs, int64_t max_blocks);

  // Takes in what is new; of every plan, in their order. Enqueued, so that steps before still find
  // what was there: a row may be another sequence's by now.
  void Take(const Stream& stream, const StepPlan& plan);

  // The tables of the plan's sequences, [num_seqs, max_blocks] int32, for as many sequences and
  // blocks as the plan has, or more: zeros. For operators that are enqueued before the next call,
  // and behind a copy to the GPU: kernels may read tables before the kernel in front of them has
  // ended (AttentionBatch), which a copy between them prevents. Always at the same address,
  // whatever the shape.
  Tensor Gather(const Stream& stream, const StepPlan& plan, int64_t num_seqs, int64_t max_blocks);

 private:
  Buffer buffer_;
  Tensor tables_;  // [max_num_seqs, columns]
  Buffer gathered_buffer_;
  Tensor gathered_;            // as of the last call of Gather
  std::vector<int32_t> rows_;  // of gathered_; -1: of nobody
  bool changed_ = true;        // since then
};

}  // namespace polystrate
