#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/scoring.cuh"

namespace polystrate::cuda {
namespace {

// More are done in turns.
constexpr int64_t kRowsAtOnce = 4096;
constexpr int kTellThreads = 256;

// Grid: (chunks of the row, rows); block: kChunkThreads. Reads every logit once, 4 bytes, and is
// bound by that.
__global__ __launch_bounds__(kChunkThreads) void SummarizeForScore(const float* __restrict__ logits,
                                                                   int64_t row_stride,
                                                                   int32_t vocab_size,
                                                                   const ScoreRow* rows,
                                                                   ChunkSummary* summaries) {
  __shared__ Place places[kMaxWarps];
  __shared__ float sums[kMaxWarps];
  __shared__ int32_t counts[kMaxWarps];
  const float* row = logits + blockIdx.y * row_stride;
  const auto begin = static_cast<int32_t>(blockIdx.x) * kChunkTokens;
  ChunkValues values;
  LoadChunk(row + begin, min(kChunkTokens, vocab_size - begin), values);
  const int32_t target_id = rows[blockIdx.y].target;
  const Place target = PlaceOf(__ldg(row + target_id), target_id);
  int32_t before = 0;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    before += PlaceOf(values[i], begin + ChunkOffset(i / 4) + i % 4) < target ? 1 : 0;
  }
  before = BlockReduce(before, 0, Plus(), counts);
  const Place best = BestOfChunk(values, begin, places);
  const float sum = SumExpOfChunk(values, LogitOf(best), 1.0f, sums);
  if (threadIdx.x == 0) {
    summaries[int64_t{blockIdx.y} * gridDim.x + blockIdx.x] = {best, best, sum, 0.0f, before};
  }
}

// Grid: rows; block: kTellThreads. Puts the summaries together; each candidate but the first costs
// another look at one chunk, 16 KiB that the caches hold.
__global__ __launch_bounds__(kTellThreads) void TellScore(const float* __restrict__ logits,
                                                          int64_t row_stride, int32_t vocab_size,
                                                          const ScoreRow* rows,
                                                          ChunkSummary* summaries, int num_chunks,
                                                          ScoreResult* results) {
  __shared__ ScoreShared shared;
  WaitForKernelBefore();
  const RowLogits row = {logits + blockIdx.x * row_stride, vocab_size,
                         summaries + int64_t{blockIdx.x} * num_chunks, num_chunks};
  const RowSummary summary = SummarizeRow(row.chunks, num_chunks);
  __syncthreads();  // before candidates change the summaries
  ScoreResult* result = results + blockIdx.x;
  if (!summary.HasDistribution()) return TellNothing(NAN, result);
  const ScoreRow asked = rows[blockIdx.x];
  Tell(row, summary, __ldg(row.logits + asked.target), summary.before + 1, asked.num_candidates,
       &shared, result);
}

}  // namespace

// On an H200 (3.3 TB/s copied, say), one pass and what launches cost: [64 x 50,304] 12.9 MB, 4 us
// from memory and less from the second-level cache, and some 3 us for the second kernel; every
// further candidate adds about 1 us.
void Score(CudaContext& context, const Tensor& logits, int64_t vocab_size,
           absl::Span<const ScoreRow> rows, absl::Span<ScoreResult> results) {
  const int64_t num_chunks = NumChunks(vocab_size);
  const auto vocab = static_cast<int32_t>(vocab_size);
  for (int64_t begin = 0; begin < logits.dim(0); begin += kRowsAtOnce) {
    const int64_t num_rows = std::min(kRowsAtOnce, logits.dim(0) - begin);
    const ScoreRow* asked = context.Upload(rows.subspan(begin, num_rows));
    auto* summaries = static_cast<ChunkSummary*>(
        context.Scratch(num_rows * num_chunks * static_cast<int64_t>(sizeof(ChunkSummary))));
    const float* first = logits.data<float>() + begin * logits.row_stride();
    Launch(context, SummarizeForScore,
           dim3(static_cast<unsigned>(num_chunks), static_cast<unsigned>(num_rows)), kChunkThreads,
           0, first, logits.row_stride(), vocab, asked, summaries);
    LaunchEarly(context, TellScore, static_cast<unsigned>(num_rows), kTellThreads, 0, first,
                logits.row_stride(), vocab, asked, summaries, static_cast<int>(num_chunks),
                results.data() + begin);
  }
}

}  // namespace polystrate::cuda
