// The menu: every operator the engine uses. Each enqueues on `stream` and returns at once (on the
// CPU it has then finished); tensors lie on stream.device(), or, slower, in page-locked host
// memory. Shapes and dtypes are CHECKed in ops.cc. Operators whose arguments are tensors alone may
// be recorded into a graph (kernels/core/step_graph.h); those that take host arrays may not.
//
// T is the model's dtype, float32, bfloat16 or, on GPUs, float16: weights, GEMM inputs and the KV
// cache are stored in it. The residual stream, norm weights, biases and logits are float32;
// everything accumulates in float32.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

// A token that the host does not know yet, as an id: the one that lies at `place` of what was drawn
// on the device. The function is its own inverse.
constexpr int32_t FedToken(int32_t place) { return -1 - place; }

// out[t] = table[ids[t] - vocab_begin], or zero where this rank does not hold the row (vocabulary
// parallel, Shoeybi et al. 2019, arXiv:1909.08053: an all-reduce over ranks completes it).
//   ids: [num_tokens] int32; table: [rows, hidden_size] T; out: [num_tokens, hidden_size] float32.
//   drawn: empty, or [n] int32 as Sample leaves it: ids[t] = FedToken(i), i < n, stands for
//   drawn[i], or for token 0 where nothing could be drawn.
void EmbeddingLookup(const Stream& stream, const Tensor& ids, const Tensor& table,
                     int32_t vocab_begin, const Tensor& out, const Tensor& drawn = {});

// out[t, i] = (x[t, i] - mean_t) / sqrt(var_t + epsilon) * weight[i] + bias[i], var over the row,
// not corrected.  x: [num_tokens, hidden_size] float32; weight, bias: [hidden_size] float32;
//   out: same shape, T (float32 may be x itself). Ba et al. 2016, arXiv:1607.06450.
//   add: empty, or as x, float32: then x += add comes first and the sum, which x keeps, is normed;
//   none of x, add and out may be another.
void LayerNorm(const Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
               float epsilon, const Tensor& out, const Tensor& add = {});

// out[t, i] = x[t, i] / sqrt(mean_t(x^2) + epsilon) * weight[i].
//   x: [num_tokens, hidden_size] float32; weight: [hidden_size] float32; out: same shape, T
//   (float32 may be x itself); add: as for LayerNorm. Zhang & Sennrich 2019, arXiv:1910.07467.
void RmsNorm(const Stream& stream, const Tensor& x, const Tensor& weight, float epsilon,
             const Tensor& out, const Tensor& add = {});

// The same over every head of x, in place: the norms of query and key (Henry et al. 2020,
// arXiv:2010.04245) as Qwen3 has them.
//   x: [num_tokens, num_heads * head_dim] T, rows may be strided; weight: [head_dim] float32.
void HeadRmsNorm(const Stream& stream, const Tensor& weight, float epsilon, const Tensor& x);

enum class Activation : uint8_t {
  kNone,
  kGelu,      // x/2 (1 + erf(x / sqrt 2)): Hugging Face "gelu"
  kGeluTanh,  // the tanh approximation: "gelu_new", "gelu_fast", "gelu_pytorch_tanh"
  kRelu,
  kSilu,  // x / (1 + exp(-x)): "silu", "swish"
};

struct GemmOptions {
  Activation activation = Activation::kNone;  // applied after the bias
  bool accumulate = false;                    // out += instead of out =; float32 out, no activation
};
// out = activation(x weight^T + bias).
//   x: [num_tokens, k] T, rows may be strided; weight: [n, k] T, contiguous; bias: [n] float32 or
//   empty; out: [num_tokens, n] T or float32, rows may be strided. No aliasing. Accumulates in
//   float32.
// Few rows (decode) read every weight byte once for all rows; many rows go to a blocked library
// GEMM. A GPU begins to read the weight while operators in front still run: they must not write it.
void Gemm(const Stream& stream, const Tensor& x, const Tensor& weight, const Tensor& bias,
          const Tensor& out, const GemmOptions& options = {});

// LayerNorm, or RmsNorm where `bias` is empty, with their arguments.
struct NormOptions {
  Tensor weight;
  Tensor bias;
  float epsilon = 0.0f;
  Tensor add;
};
// The arguments of Gemm that follow its x, which is a norm.
struct NormProduct {
  NormOptions norm;
  Tensor weight;
  Tensor bias;
  Tensor out;
  GemmOptions options = {};
};
// out = activation(norm(x) weight^T + bias): the norm, whose result is `normed`, and Gemm of that.
// Where that is better (few rows on a GPU) it is one pass, and what normed holds is not said.
//   x: [num_tokens, k] float32; normed: [num_tokens, k] T, nothing else's memory; the rest as for
//   Gemm.
void NormGemm(const Stream& stream, const Tensor& x, const Tensor& normed,
              const NormProduct& product);
// One and then the other, or both at once; they are of the same k, and their outs apart.
void NormGemms(const Stream& stream, const Tensor& x, const Tensor& normed,
               const NormProduct& first, const NormProduct& second);

// out[t, i] = activation(gate_up[t, i]) * gate_up[t, n + i]: the middle of a gated MLP (SwiGLU and
// GEGLU, Shazeer 2020, arXiv:2002.05202), whose two first matrices are one.
//   gate_up: [num_tokens, 2 n] T; out: [num_tokens, n] T. No aliasing.
void GatedActivation(const Stream& stream, const Tensor& gate_up, Activation activation,
                     const Tensor& out);

// GatedActivation of gate_up.out, where NormGemm leaves its result (no activation there). Where
// that is better it is one pass, and what normed and gate_up.out hold is not said.
void GatedNormGemm(const Stream& stream, const Tensor& x, const Tensor& normed,
                   const NormProduct& gate_up, Activation activation, const Tensor& out);

// Rotary tables (Su et al. 2021, arXiv:2104.09864; "rotate half" over the first rotary_dim of
// head_dim, as GPT-NeoX has it): cos_sin[p] = a cos(p f_0..f_{r/2-1}) then a sin(p f_0..).
struct RopeTable {
  Tensor cos_sin;  // [max_position, rotary_dim] float32
  int rotary_dim = 0;
};
// f_j = base^(-2j / rotary_dim), rotary_dim / 2 of them, in float32 as Hugging Face computes them.
std::vector<float> RopeFrequencies(double base, int rotary_dim);
// Fills table.cos_sin, which lies in host memory, from the frequencies f and the factor a. Angles
// are float32 as in Hugging Face.
void FillRopeTable(absl::Span<const float> frequencies, float attention_factor,
                   const RopeTable& table);

// Rotates every head of x in place by its row's position.
//   positions: [num_tokens] int32; x: [num_tokens, num_heads * head_dim] T, rows may be strided.
void ApplyRope(const Stream& stream, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x);

// One KV slot (one owner's place) of the cache; a block holds block_size tokens of every KV head.
struct KvSlot {
  Tensor key;    // [num_blocks, num_kv_heads, block_size, head_dim] T
  Tensor value;  // the same
};
// What an owner does between its projections and attention, in one pass: rotates every head of
// query in place, as ApplyRope does, and writes row t of key (rotated if rotate_key) and value to
// block slot_mapping[t] / block_size, offset slot_mapping[t] % block_size; nowhere when
// slot_mapping[t] is -1. What key holds afterwards is not said.
//   query: [num_tokens, num_heads * head_dim] T, or empty: no query is rotated; key, value:
//   [num_tokens, num_kv_heads * head_dim] T; rows may be strided; positions, slot_mapping:
//   [num_tokens] int32.
void RotateAndStoreKv(const Stream& stream, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot);

// The ragged batch of one step: sequence i's queries are rows [cu_seqlens_q[i], cu_seqlens_q[i+1]),
// of which there may be none, and are the last of its context_lens[i] tokens, whose K and V are
// already in the cache. A sequence of no context has no keys: the rows of its queries become zero.
// A GPU reads these tensors while operators in front still run: they are copied there, or written
// by an operator (GatherTables) behind which something is copied from the host.
struct AttentionBatch {
  Tensor cu_seqlens_q;  // [num_sequences + 1] int32
  Tensor context_lens;  // [num_sequences] int32
  Tensor block_tables;  // [num_sequences, max_blocks_per_sequence] int32
  // No sequence has more queries, or more context. GPUs shape their launches by these, since what
  // the tensors say is on the device: too much costs time, too little is wrong. The CPU ignores
  // them.
  int64_t max_seqlen_q = 0;
  int64_t max_context_len = 0;
};
// What is new in a row of the tables of all sequences that run.
struct NewBlock {
  int32_t row = 0;
  int32_t index = 0;  // of the sequence's blocks
  int32_t block = 0;
};
// tables[b.row, b.index] = b.block for every one of `blocks`, of which no two are about the same
// element.  tables: [rows, columns] int32; `blocks` is copied.
void SetBlocks(const Stream& stream, absl::Span<const NewBlock> blocks, const Tensor& tables);
// out[i] = what the first columns of tables[rows[i]] hold; zeros where rows[i] is -1.
//   rows: [n] int32; tables: [any, columns] int32; out: [n, at most as many columns] int32.
void GatherTables(const Stream& stream, const Tensor& rows, const Tensor& tables,
                  const Tensor& out);

struct AttentionOptions {
  int head_dim = 0;
  int queries_per_kv_head = 1;  // of the whole model
  // Query head q of this rank reads KV head (q + query_head_phase) / queries_per_kv_head of this
  // rank: the phase is not zero where a rank's heads begin in the middle of a KV group (g % tp !=
  // 0).
  int query_head_phase = 0;
  float scale = 1.0f;
  // Set when the cache holds unrotated keys and this layer reads them rotated (`pre_rope` owners):
  // the key of position p is rotated by row p as it is read.
  const RopeTable* rotate_keys = nullptr;
};
// Causal softmax(scale q k^T) v over a paged cache (Kwon et al. 2023, arXiv:2309.06180) with the
// online softmax of FlashAttention-2 (Dao 2023, arXiv:2307.08691).  Each KV byte is read once for
// all query heads (and, in prefill, for a tile of query rows) that share it.
//   query, out: [num_tokens, num_heads * head_dim] T, rows may be strided; no aliasing.
void PagedAttention(const Stream& stream, const Tensor& query, const KvSlot& slot,
                    const AttentionBatch& batch, const AttentionOptions& options,
                    const Tensor& out);

// x += y, float32, same shape [num_tokens, hidden_size].
void AddInPlace(const Stream& stream, const Tensor& y, const Tensor& x);

// out[t] = parts[0, t] | parts[1, t] | ...: what a gather over a vocabulary-parallel group leaves,
// in one row per token.  parts: [num_parts, num_tokens, n] float32; out: [num_tokens, num_parts *
// n] float32.
void ConcatColumns(const Stream& stream, const Tensor& parts, const Tensor& out);

// A token and the log softmax of a row's logits at it.
struct TokenLogProb {
  int32_t token_id = -1;
  float logprob = 0.0f;
};
inline constexpr int kMaxCandidates = 20;
// What to tell about a row: the token that is known to follow, and how many of the likeliest.
struct ScoreRow {
  int32_t target = 0;
  int32_t num_candidates = 0;  // [0, kMaxCandidates]
};
struct ScoreResult {
  float logprob = 0.0f;  // NaN: the row holds a NaN, +infinity or nothing finite; no rank then
  // 1 + how many tokens come before the target, by logit and, among equals, by id: 1 is the token
  // that Sample takes at temperature 0.
  int32_t rank = 0;
  // Best first, in the order of ranks; behind min(num_candidates, vocab_size) of them, and in a row
  // without logprob, token_id is -1.
  std::array<TokenLogProb, kMaxCandidates> candidates;
};
// logits: [num_rows, >= vocab_size] float32 (columns from vocab_size on are padding), unscaled and
// unfiltered; one row and one result each. `rows` is copied; `results` are host memory, page-locked
// (Buffer::AllocatePinned) on a GPU, and are there when the stream has come so far.
void Score(const Stream& stream, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results);

// A token that stands in a sequence, and how often among those that were generated: 0 is one of the
// prompt alone.
struct TokenCount {
  int32_t token_id = 0;
  int32_t count = 0;
};
// Added to a token's logit. -infinity bans the token; no other infinity and no NaN.
struct TokenBias {
  int32_t token_id = 0;
  float bias = 0.0f;
};
inline constexpr int32_t kLogProbOnly = -1;
// How one row of logits becomes a token, in this order:
//   biases; repetition_penalty (a positive logit is divided by it, any other multiplied) of every
//   token in the history; minus frequency_penalty * count and minus presence_penalty of those whose
//   count is not 0;
//   temperature: below 1e-5 argmax, the lowest id winning ties, and that is all; otherwise logits /
//   temperature;
//   min_p (tokens at least min_p times as likely as the likeliest; 0: all), top_k of those (0:
//   all), top_p (the smallest set of the likeliest of those left whose probability, among them,
//   reaches top_p); one draw.
// A logit that a bias or penalty takes beyond the largest float is the largest float.
struct SampleRow {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  uint64_t seed = 0;
  // Position of the token that is drawn. The draw depends on (seed, position) and the logits alone:
  // Philox4x32-10 (Salmon et al. 2011), key seed, counter position.
  uint64_t position = 0;
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // > 0
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  // [0, kMaxCandidates], as for Score; kLogProbOnly saves the passes over the row for rank and
  // candidates.
  int32_t num_candidates = kLogProbOnly;
  // The row's parts of SampleLists: [begin, end). Each token at most once in a history.
  int32_t history_begin = 0;
  int32_t history_end = 0;
  int32_t biases_begin = 0;
  int32_t biases_end = 0;

  // What the parameters come to.
  constexpr bool IsGreedy() const { return temperature < 1e-5f; }
  constexpr bool HasTopK(int64_t vocab_size) const { return top_k > 0 && top_k < vocab_size; }
  // Whether tokens are drawn in the order of their logits, not in that of their ids.
  constexpr bool DrawsInOrder(int64_t vocab_size) const {
    return HasTopK(vocab_size) || top_p < 1.0f;
  }
  // False: the row's lists leave its logits as they are.
  constexpr bool AdjustsLogits() const {
    return history_begin < history_end || biases_begin < biases_end;
  }
};
// The histories and biases of all rows.
struct SampleLists {
  absl::Span<const TokenCount> history;
  absl::Span<const TokenBias> biases;
};
// What Score says of the drawn token in the logits as they came, before biases and penalties.
struct SampleResult : ScoreResult {
  // -1: the row holds a NaN, +infinity or nothing finite (logprob is NaN), or its biases ban every
  // token that has a chance; the caller ends that request.
  int32_t token_id = -1;
};
// logits as for Score, left as they are; one row and one result each; rows, lists and results as
// for Score.
//   drawn: empty, or [num_rows] int32 on stream.device(): gets the results' token_id, for operators
//   that come later on the stream (EmbeddingLookup).
void Sample(const Stream& stream, const Tensor& logits, int64_t vocab_size,
            absl::Span<const SampleRow> rows, absl::Span<SampleResult> results,
            const SampleLists& lists = {}, const Tensor& drawn = {});

}  // namespace polystrate
