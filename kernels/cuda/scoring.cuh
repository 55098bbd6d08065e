// What Score and Sample tell about a token of a row: device code of one block per row.
#pragma once

#include "kernels/cuda/row_summary.cuh"
#include "kernels/ops.h"

namespace polystrate::cuda {

// A row of logits, as it came, and what its chunks told.
struct RowLogits {
  const float* logits;
  int32_t vocab_size;
  ChunkSummary* chunks;  // the block's own: taking candidates changes them
  int num_chunks;
};

// Room of the block for what follows.
struct ScoreShared {
  Place partials[kMaxWarps];
  int32_t counts[kMaxWarps];
  Place candidates[kMaxCandidates];
};

// The result of a row of which nothing can be told; `logprob`: NaN when its logits are to blame.
__device__ inline void TellNothing(float logprob, ScoreResult* result) {
  if (threadIdx.x < kMaxCandidates) result->candidates[threadIdx.x] = {-1, 0.0f};
  if (threadIdx.x == 0) {
    result->logprob = logprob;
    result->rank = 0;
  }
}

// How many tokens come before `target`.
__device__ inline int32_t CountBefore(const RowLogits& row, Place target, ScoreShared* shared) {
  int32_t before = 0;
#pragma unroll 8
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < row.vocab_size;
       i += static_cast<int32_t>(blockDim.x)) {
    before += PlaceOf(__ldg(row.logits + i), i) < target ? 1 : 0;
  }
  return BlockReduce(before, 0, Plus(), shared->counts);
}

// The best token of `chunk` behind `place`; kNoPlace when there is none.
__device__ inline Place NextOfChunk(const RowLogits& row, int chunk, Place place, Place* partials) {
  const int32_t begin = chunk * kChunkTokens;
  const int32_t end = min(begin + kChunkTokens, row.vocab_size);
  Place best = kNoPlace;
#pragma unroll 4
  for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end;
       i += static_cast<int32_t>(blockDim.x)) {
    const Place here = PlaceOf(__ldg(row.logits + i), i);
    if (here > place) best = Least()(best, here);
  }
  return BlockReduce(best, kNoPlace, Least(), partials);
}

// The best `count` tokens into shared->candidates: each is the best of the chunks' best, and that
// chunk alone is read again for its next. Ends with all threads seeing them.
__device__ inline void TakeCandidates(const RowLogits& row, int count, ScoreShared* shared) {
  const int lane = threadIdx.x % kWarp;
  for (int taken = 0; taken < count; ++taken) {
    Place best = kNoPlace;
    for (int i = lane; i < row.num_chunks; i += kWarp) {
      best = Least()(best, row.chunks[i].best);
    }
    best = WarpReduce(best, Least());
    if (threadIdx.x == 0) shared->candidates[taken] = best;
    if (taken + 1 == count) break;
    const int chunk = IdOf(best) / kChunkTokens;
    const Place next = NextOfChunk(row, chunk, best, shared->partials);
    if (threadIdx.x == 0) row.chunks[chunk].best = next;
    __syncthreads();
  }
  __syncthreads();
}

// `rank` and `num_candidates` as the caller's operator has them (kLogProbOnly: no candidates).
__device__ inline void Tell(const RowLogits& row, const RowSummary& summary, float target_logit,
                            int32_t rank, int32_t num_candidates, ScoreShared* shared,
                            ScoreResult* result) {
  const int count = min(num_candidates, row.vocab_size);
  if (count > 0) TakeCandidates(row, count, shared);
  const int i = static_cast<int>(threadIdx.x);
  if (i < kMaxCandidates) {
    TokenLogProb candidate = {-1, 0.0f};
    if (i < count) {
      const Place place = shared->candidates[i];
      candidate = {IdOf(place), summary.LogSoftmax(LogitOf(place))};
    }
    result->candidates[i] = candidate;
  }
  if (i == 0) {
    result->logprob = summary.LogSoftmax(target_logit);
    result->rank = rank;
  }
}

}  // namespace polystrate::cuda
