// Checks of shapes and types, then one switch on the device. No arithmetic.
#include "kernels/ops.h"

#include "kernels/core/check.h"
#include "kernels/cpu/ops.h"
#include "kernels/cuda/ops.h"

namespace polystrate {
namespace {

// A matrix of the model's storage type or of float32.
void CheckMatrix(const Tensor& x, int64_t rows, int64_t columns) {
  CHECK_EQ(x.rank(), 2);
  CHECK_EQ(x.dim(0), rows);
  CHECK_EQ(x.dim(1), columns);
  CHECK(x.dtype() == DType::kFloat32 || x.dtype() == DType::kBFloat16 ||
        x.dtype() == DType::kFloat16);
}

void CheckVector(const Tensor& x, DType dtype, int64_t size) {
  CHECK_EQ(x.rank(), 1);
  CHECK_EQ(x.dim(0), size);
  CHECK(x.dtype() == dtype);
}

// The addend of a norm, if there is one.
void CheckAddend(const Tensor& x, const Tensor& add, const Tensor& out) {
  if (add.empty()) return;
  CheckMatrix(add, x.dim(0), x.dim(1));
  CHECK(add.dtype() == DType::kFloat32);
  CHECK(x.raw() != out.raw() && x.raw() != add.raw() && add.raw() != out.raw());
}

// All but the type of x.
void CheckGemm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
               const GemmOptions& options) {
  CheckMatrix(weight, weight.dim(0), weight.dim(1));
  CHECK(weight.contiguous());
  CheckMatrix(x, x.dim(0), weight.dim(1));
  CheckMatrix(out, x.dim(0), weight.dim(0));
  CHECK(out.dtype() == DType::kFloat32 || out.dtype() == weight.dtype());
  if (!bias.empty()) CheckVector(bias, DType::kFloat32, weight.dim(0));
  if (options.accumulate) {
    CHECK(out.dtype() == DType::kFloat32 && options.activation == Activation::kNone);
  }
}

void CheckNormProduct(const Tensor& x, const NormProduct& product) {
  CheckGemm(x, product.weight, product.bias, product.out, product.options);
  CHECK(x.dtype() == DType::kFloat32);
  CheckVector(product.norm.weight, DType::kFloat32, x.dim(1));
  if (!product.norm.bias.empty()) CheckVector(product.norm.bias, DType::kFloat32, x.dim(1));
}

void CheckRope(const RopeTable& rope, int head_dim) {
  CHECK_EQ(rope.cos_sin.rank(), 2);
  CHECK_EQ(rope.cos_sin.dim(1), rope.rotary_dim);
  CHECK(rope.cos_sin.dtype() == DType::kFloat32);
  CHECK_EQ(rope.rotary_dim % 2, 0);
  CHECK_LE(rope.rotary_dim, head_dim);
}

void CheckSlot(const KvSlot& slot, DType dtype) {
  CHECK_EQ(slot.key.rank(), 4);
  CHECK_EQ(slot.value.rank(), 4);
  for (int axis = 0; axis < 4; ++axis) CHECK_EQ(slot.key.dim(axis), slot.value.dim(axis));
  CHECK(slot.key.contiguous() && slot.value.contiguous());
  CHECK(slot.key.dtype() == dtype && slot.value.dtype() == dtype);
}

void CheckBatch(const AttentionBatch& batch, int64_t num_tokens, Device device) {
  const int64_t num_sequences = batch.context_lens.dim(0);
  CheckVector(batch.context_lens, DType::kInt32, num_sequences);
  CheckVector(batch.cu_seqlens_q, DType::kInt32, num_sequences + 1);
  CHECK_EQ(batch.block_tables.rank(), 2);
  CHECK_EQ(batch.block_tables.dim(0), num_sequences);
  CHECK(batch.block_tables.dtype() == DType::kInt32);
  if (device.type == DeviceType::kCuda) {
    CHECK_LE(batch.max_seqlen_q, num_tokens);
    return;
  }
  CHECK_EQ(batch.cu_seqlens_q.data<int32_t>()[0], 0);
  CHECK_EQ(batch.cu_seqlens_q.data<int32_t>()[num_sequences], num_tokens);
}

void CheckTables(const Tensor& tables) {
  CHECK_EQ(tables.rank(), 2);
  CHECK(tables.dtype() == DType::kInt32);
}

void CheckLogits(const Tensor& logits, int64_t vocab_size, size_t num_rows, size_t num_results) {
  CHECK_EQ(logits.rank(), 2);
  CHECK(logits.dtype() == DType::kFloat32);
  CHECK_LE(vocab_size, logits.dim(1));
  CHECK_GT(vocab_size, 0);
  CHECK_EQ(static_cast<size_t>(logits.dim(0)), num_rows);
  CHECK_EQ(num_rows, num_results);
}

// A row's part, [begin, end), of the lists of all rows.
template <typename T>
void CheckPart(int32_t begin, int32_t end, absl::Span<const T> all, int64_t vocab_size) {
  CHECK(begin >= 0 && begin <= end && static_cast<size_t>(end) <= all.size());
  for (const T& token : all.subspan(begin, end - begin)) {
    CHECK(token.token_id >= 0 && token.token_id < vocab_size);
  }
}

void CheckSampleRow(const SampleRow& row, const SampleLists& lists, int64_t vocab_size) {
  CHECK(row.num_candidates >= kLogProbOnly && row.num_candidates <= kMaxCandidates);
  CheckPart(row.history_begin, row.history_end, lists.history, vocab_size);
  CheckPart(row.biases_begin, row.biases_end, lists.biases, vocab_size);
}

}  // namespace

void EmbeddingLookup(const Stream& stream, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn) {
  CheckMatrix(table, table.dim(0), table.dim(1));
  if (!drawn.empty()) CheckVector(drawn, DType::kInt32, drawn.dim(0));
  CheckVector(ids, DType::kInt32, ids.dim(0));
  CheckMatrix(out, ids.dim(0), table.dim(1));
  CHECK(out.dtype() == DType::kFloat32);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::EmbeddingLookup(stream.cpu(), ids, table, vocab_begin, out, drawn);
    case DeviceType::kCuda:
      return cuda::EmbeddingLookup(stream.cuda(), ids, table, vocab_begin, out, drawn);
  }
}

void LayerNorm(const Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add) {
  CheckMatrix(x, x.dim(0), x.dim(1));
  CHECK(x.dtype() == DType::kFloat32);
  CheckVector(weight, DType::kFloat32, x.dim(1));
  CheckVector(bias, DType::kFloat32, x.dim(1));
  CheckMatrix(out, x.dim(0), x.dim(1));
  CheckAddend(x, add, out);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::LayerNorm(stream.cpu(), x, weight, bias, epsilon, out, add);
    case DeviceType::kCuda:
      return cuda::LayerNorm(stream.cuda(), x, weight, bias, epsilon, out, add);
  }
}

void RmsNorm(const Stream& stream, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add) {
  CheckMatrix(x, x.dim(0), x.dim(1));
  CHECK(x.dtype() == DType::kFloat32);
  CheckVector(weight, DType::kFloat32, x.dim(1));
  CheckMatrix(out, x.dim(0), x.dim(1));
  CheckAddend(x, add, out);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::RmsNorm(stream.cpu(), x, weight, epsilon, out, add);
    case DeviceType::kCuda:
      return cuda::RmsNorm(stream.cuda(), x, weight, epsilon, out, add);
  }
}

void HeadRmsNorm(const Stream& stream, const Tensor& weight, float epsilon, const Tensor& x) {
  CheckMatrix(x, x.dim(0), x.dim(1));
  CheckVector(weight, DType::kFloat32, weight.dim(0));
  CHECK_EQ(x.dim(1) % weight.dim(0), 0);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::HeadRmsNorm(stream.cpu(), weight, epsilon, x);
    case DeviceType::kCuda:
      return cuda::HeadRmsNorm(stream.cuda(), weight, epsilon, x);
  }
}

void GatedActivation(const Stream& stream, const Tensor& gate_up, Activation activation,
                     const Tensor& out) {
  CheckMatrix(out, out.dim(0), out.dim(1));
  CheckMatrix(gate_up, out.dim(0), 2 * out.dim(1));
  CHECK(gate_up.dtype() == out.dtype());
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::GatedActivation(stream.cpu(), gate_up, activation, out);
    case DeviceType::kCuda:
      return cuda::GatedActivation(stream.cuda(), gate_up, activation, out);
  }
}

void Gemm(const Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options) {
  CHECK(x.dtype() == weight.dtype());
  CheckGemm(x, weight, bias, out, options);
  if (out.num_elements() == 0) return;
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Gemm(stream.cpu(), x, weight, bias, out, options);
    case DeviceType::kCuda:
      return cuda::Gemm(stream.cuda(), x, weight, bias, out, options);
  }
}

void NormGemm(const Stream& stream, const Tensor& x, const Tensor& normed,
              const NormProduct& product) {
  CheckNormProduct(x, product);
  if (product.out.num_elements() > 0 && stream.device().type == DeviceType::kCuda &&
      cuda::NormGemm(stream.cuda(), x, product)) {
    return;
  }
  const NormOptions& norm = product.norm;
  if (norm.bias.empty()) {
    RmsNorm(stream, x, norm.weight, norm.epsilon, normed, norm.add);
  } else {
    LayerNorm(stream, x, norm.weight, norm.bias, norm.epsilon, normed, norm.add);
  }
  Gemm(stream, normed, product.weight, product.bias, product.out, product.options);
}

void GatedNormGemm(const Stream& stream, const Tensor& x, const Tensor& normed,
                   const NormProduct& gate_up, Activation activation, const Tensor& out) {
  CheckNormProduct(x, gate_up);
  CHECK(gate_up.options.activation == Activation::kNone && !gate_up.options.accumulate);
  CheckMatrix(out, x.dim(0), out.dim(1));
  CHECK_EQ(gate_up.weight.dim(0), 2 * out.dim(1));
  if (out.num_elements() > 0 && stream.device().type == DeviceType::kCuda &&
      cuda::GatedNormGemm(stream.cuda(), x, gate_up, activation, out)) {
    return;
  }
  NormGemm(stream, x, normed, gate_up);
  GatedActivation(stream, gate_up.out, activation, out);
}

void NormGemms(const Stream& stream, const Tensor& x, const Tensor& normed,
               const NormProduct& first, const NormProduct& second) {
  CheckNormProduct(x, first);
  CheckNormProduct(x, second);
  CHECK(first.weight.dtype() == second.weight.dtype());
  if (first.out.num_elements() > 0 && second.out.num_elements() > 0 &&
      stream.device().type == DeviceType::kCuda &&
      cuda::NormGemms(stream.cuda(), x, first, second)) {
    return;
  }
  NormGemm(stream, x, normed, first);
  NormGemm(stream, x, normed, second);
}

void ApplyRope(const Stream& stream, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x) {
  CheckRope(rope, head_dim);
  CheckMatrix(x, positions.dim(0), x.dim(1));
  CHECK_EQ(x.dim(1) % head_dim, 0);
  CheckVector(positions, DType::kInt32, x.dim(0));
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::ApplyRope(stream.cpu(), rope, positions, head_dim, x);
    case DeviceType::kCuda:
      return cuda::ApplyRope(stream.cuda(), rope, positions, head_dim, x);
  }
}

void RotateAndStoreKv(const Stream& stream, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot) {
  CheckRope(rope, head_dim);
  CheckSlot(slot, key.dtype());
  CHECK_EQ(slot.key.dim(3), head_dim);
  CheckMatrix(key, positions.dim(0), slot.key.dim(1) * head_dim);
  CheckMatrix(value, key.dim(0), key.dim(1));
  CHECK(value.dtype() == key.dtype());
  CheckVector(positions, DType::kInt32, key.dim(0));
  CheckVector(slot_mapping, DType::kInt32, key.dim(0));
  if (!query.empty()) {
    CheckMatrix(query, key.dim(0), query.dim(1));
    CHECK(query.dtype() == key.dtype());
    CHECK_EQ(query.dim(1) % head_dim, 0);
  }
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::RotateAndStoreKv(stream.cpu(), rope, positions, head_dim, rotate_key, query, key,
                                   value, slot_mapping, slot);
    case DeviceType::kCuda:
      return cuda::RotateAndStoreKv(stream.cuda(), rope, positions, head_dim, rotate_key, query,
                                    key, value, slot_mapping, slot);
  }
}

void PagedAttention(const Stream& stream, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out) {
  CheckMatrix(query, query.dim(0), query.dim(1));
  CheckMatrix(out, query.dim(0), query.dim(1));
  CHECK(out.dtype() == query.dtype());
  CheckSlot(slot, query.dtype());
  CheckBatch(batch, query.dim(0), stream.device());
  CHECK_EQ(slot.key.dim(3), options.head_dim);
  CHECK_GT(options.head_dim, 0);
  CHECK_EQ(query.dim(1) % options.head_dim, 0);
  CHECK_GE(options.query_head_phase, 0);
  CHECK_GE(options.queries_per_kv_head, 1);
  // The last query head's KV head is one of this rank's.
  CHECK_LE(query.dim(1) / options.head_dim + options.query_head_phase,
           slot.key.dim(1) * options.queries_per_kv_head);
  if (options.rotate_keys != nullptr) CheckRope(*options.rotate_keys, options.head_dim);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::PagedAttention(stream.cpu(), query, slot, batch, options, out);
    case DeviceType::kCuda:
      return cuda::PagedAttention(stream.cuda(), query, slot, batch, options, out);
  }
}

void AddInPlace(const Stream& stream, const Tensor& y, const Tensor& x) {
  CheckMatrix(x, y.dim(0), y.dim(1));
  CHECK(x.dtype() == DType::kFloat32 && y.dtype() == DType::kFloat32);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::AddInPlace(stream.cpu(), y, x);
    case DeviceType::kCuda:
      return cuda::AddInPlace(stream.cuda(), y, x);
  }
}

void SetBlocks(const Stream& stream, absl::Span<const NewBlock> blocks, const Tensor& tables) {
  CheckTables(tables);
  for (const NewBlock& block : blocks) {
    CHECK(block.row >= 0 && block.row < tables.dim(0));
    CHECK(block.index >= 0 && block.index < tables.dim(1));
  }
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::SetBlocks(stream.cpu(), blocks, tables);
    case DeviceType::kCuda:
      return cuda::SetBlocks(stream.cuda(), blocks, tables);
  }
}

void GatherTables(const Stream& stream, const Tensor& rows, const Tensor& tables,
                  const Tensor& out) {
  CheckTables(tables);
  CheckTables(out);
  CheckVector(rows, DType::kInt32, out.dim(0));
  CHECK_LE(out.dim(1), tables.dim(1));
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::GatherTables(stream.cpu(), rows, tables, out);
    case DeviceType::kCuda:
      return cuda::GatherTables(stream.cuda(), rows, tables, out);
  }
}

void ConcatColumns(const Stream& stream, const Tensor& parts, const Tensor& out) {
  CHECK_EQ(parts.rank(), 3);
  CHECK(parts.contiguous() && parts.dtype() == DType::kFloat32);
  CheckMatrix(out, parts.dim(1), parts.dim(0) * parts.dim(2));
  CHECK(out.dtype() == DType::kFloat32);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::ConcatColumns(stream.cpu(), parts, out);
    case DeviceType::kCuda:
      return cuda::ConcatColumns(stream.cuda(), parts, out);
  }
}

void Sample(const Stream& stream, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists, const Tensor& drawn) {
  if (!drawn.empty()) CheckVector(drawn, DType::kInt32, logits.dim(0));
  CheckLogits(logits, vocab_size, rows.size(), results.size());
  for (const SampleRow& row : rows) CheckSampleRow(row, lists, vocab_size);
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Sample(stream.cpu(), logits, vocab_size, rows, results, lists, drawn);
    case DeviceType::kCuda:
      return cuda::Sample(stream.cuda(), logits, vocab_size, rows, results, lists, drawn);
  }
}

void Score(const Stream& stream, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results) {
  CheckLogits(logits, vocab_size, rows.size(), results.size());
  for (const ScoreRow& row : rows) {
    CHECK(row.target >= 0 && row.target < vocab_size);
    CHECK(row.num_candidates >= 0 && row.num_candidates <= kMaxCandidates);
  }
  switch (stream.device().type) {
    case DeviceType::kCpu:
      return cpu::Score(stream.cpu(), logits, vocab_size, rows, results);
    case DeviceType::kCuda:
      return cuda::Score(stream.cuda(), logits, vocab_size, rows, results);
  }
}

}  // namespace polystrate
