// Builds the kernels' arguments and decides which kernels run. No arithmetic.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/ops.h"

namespace polystrate::cuda {
namespace {

bool Aligned16(const void* data, int64_t stride, int64_t head_dim, DType dtype) {
  const int64_t size = SizeOf(dtype);
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * size % 16 == 0 &&
         head_dim * size % 16 == 0;
}

AttentionParams MakeParams(const Tensor& query, const KvSlot& slot, const AttentionBatch& batch,
                           const AttentionOptions& options, const Tensor& out) {
  AttentionParams p = {};
  p.dtype = query.dtype();
  p.query = query.raw();
  p.query_stride = query.row_stride();
  p.out = out.raw();
  p.out_stride = out.row_stride();
  p.key = slot.key.raw();
  p.value = slot.value.raw();
  p.block_stride = slot.key.row_stride();
  p.cu_seqlens_q = batch.cu_seqlens_q.data<int32_t>();
  p.context_lens = batch.context_lens.data<int32_t>();
  p.block_tables = batch.block_tables.data<int32_t>();
  p.block_table_stride = batch.block_tables.row_stride();
  if (options.rotate_keys != nullptr) {
    p.cos_sin = options.rotate_keys->cos_sin.data<float>();
    p.rotary_dim = options.rotate_keys->rotary_dim;
  }
  p.num_tokens = static_cast<int>(query.dim(0));
  p.num_sequences = static_cast<int>(batch.context_lens.dim(0));
  p.num_heads = static_cast<int>(query.dim(1) / options.head_dim);
  p.num_kv_heads = static_cast<int>(slot.key.dim(1));
  p.head_dim = options.head_dim;
  p.block_size = static_cast<int>(slot.key.dim(2));
  p.queries_per_kv_head = options.queries_per_kv_head;
  p.query_head_phase = options.query_head_phase;
  p.scale = options.scale;
  p.max_seqlen_q = batch.max_seqlen_q;
  p.max_context_len = batch.max_context_len;
  p.cache_aligned =
      Aligned16(p.key, 0, p.head_dim, p.dtype) && Aligned16(p.value, 0, p.head_dim, p.dtype);
  p.query_aligned = Aligned16(p.query, p.query_stride, p.head_dim, p.dtype);
  p.out_aligned = Aligned16(p.out, p.out_stride, p.head_dim, p.dtype);
  return p;
}

}  // namespace

void PagedAttention(CudaContext& context, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out) {
  CHECK(options.scale > 0.0f);
  const AttentionParams params = MakeParams(query, slot, batch, options, out);
  if (params.num_tokens == 0) return;
  CHECK_LE(params.num_tokens, params.num_sequences * params.max_seqlen_q);
  // Of S sequences with at most m queries each, one has a single query only if all have no more
  // than (S - 1) m + 1: a batch of whole prompts need not start the decode kernel to find none.
  const int64_t most_with_one = (params.num_sequences - 1) * params.max_seqlen_q + 1;
  if (params.max_seqlen_q > 1) PrefillAttention(context, params);
  if (params.num_tokens <= most_with_one) DecodeAttention(context, params);
}

}  // namespace polystrate::cuda
