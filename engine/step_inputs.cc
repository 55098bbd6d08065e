#include "engine/step_inputs.h"

#include <algorithm>

#include "kernels/core/copy.h"

namespace polystrate {

StepInputs UploadInputs(const Stream& stream, const StepPlan& plan, const Tensor& block_tables) {
  const int64_t num_tokens = plan.num_tokens();
  const int64_t num_seqs = plan.num_seqs();
  StepInputs inputs;
  inputs.token_ids = Upload(stream, plan.token_ids, {num_tokens});
  inputs.positions = Upload(stream, plan.positions, {num_tokens});
  inputs.slot_mapping = Upload(stream, plan.slot_mapping, {num_tokens});
  AttentionBatch& batch = inputs.batch;
  batch.cu_seqlens_q = Upload(stream, plan.cu_seqlens_q, {num_seqs + 1});
  batch.context_lens = Upload(stream, plan.context_lens, {num_seqs});
  batch.block_tables = block_tables;
  for (int64_t i = 0; i < num_seqs; ++i) {
    batch.max_seqlen_q =
        std::max<int64_t>(batch.max_seqlen_q, plan.cu_seqlens_q[i + 1] - plan.cu_seqlens_q[i]);
    batch.max_context_len = std::max<int64_t>(batch.max_context_len, plan.context_lens[i]);
  }
  return inputs;
}

}  // namespace polystrate
