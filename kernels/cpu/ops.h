// The CPU twins of ops.h: the same contracts, shapes already checked. Files are named as in cuda/.
#pragma once

#include "kernels/cpu/context.h"
#include "kernels/ops.h"

namespace polystrate::cpu {

void EmbeddingLookup(CpuContext& context, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn);
void LayerNorm(CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add);
void RmsNorm(CpuContext& context, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add);
void HeadRmsNorm(CpuContext& context, const Tensor& weight, float epsilon, const Tensor& x);
void GatedActivation(CpuContext& context, const Tensor& gate_up, Activation activation,
                     const Tensor& out);
void AddInPlace(CpuContext& context, const Tensor& y, const Tensor& x);
void Gemm(CpuContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options);
void ApplyRope(CpuContext& context, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x);
void RotateAndStoreKv(CpuContext& context, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot);
void PagedAttention(CpuContext& context, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out);
void SetBlocks(CpuContext& context, absl::Span<const NewBlock> blocks, const Tensor& tables);
void GatherTables(CpuContext& context, const Tensor& rows, const Tensor& tables, const Tensor& out);
void ConcatColumns(CpuContext& context, const Tensor& parts, const Tensor& out);
void Sample(CpuContext& context, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists, const Tensor& drawn);
void Score(CpuContext& context, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results);

// What the inner loops call the activation.
Epilogue ToEpilogue(Activation activation);

}  // namespace polystrate::cpu
