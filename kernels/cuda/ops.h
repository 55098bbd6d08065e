// The CUDA twins of ops.h: the same contracts, shapes already checked. Tensors and pointers are the
// device's (or page-locked host memory) unless it says otherwise; nothing waits for the device.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace polystrate::cuda {

void EmbeddingLookup(CudaContext& context, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn);
void LayerNorm(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add);
void RmsNorm(CudaContext& context, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add);
void HeadRmsNorm(CudaContext& context, const Tensor& weight, float epsilon, const Tensor& x);
void GatedActivation(CudaContext& context, const Tensor& gate_up, Activation activation,
                     const Tensor& out);
void AddInPlace(CudaContext& context, const Tensor& y, const Tensor& x);
void Gemm(CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options);
// Not every shape's: false, with nothing done, where operators one by one do better.
bool NormGemm(const CudaContext& context, const Tensor& x, const NormProduct& product);
bool GatedNormGemm(const CudaContext& context, const Tensor& x, const NormProduct& gate_up,
                   Activation activation, const Tensor& out);
bool NormGemms(const CudaContext& context, const Tensor& x, const NormProduct& first,
               const NormProduct& second);
void ApplyRope(CudaContext& context, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x);
void RotateAndStoreKv(CudaContext& context, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot);
void PagedAttention(CudaContext& context, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out);
void SetBlocks(CudaContext& context, absl::Span<const NewBlock> blocks, const Tensor& tables);
void GatherTables(CudaContext& context, const Tensor& rows, const Tensor& tables,
                  const Tensor& out);
void ConcatColumns(CudaContext& context, const Tensor& parts, const Tensor& out);
void Sample(CudaContext& context, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists, const Tensor& drawn);
void Score(CudaContext& context, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results);

}  // namespace polystrate::cuda
