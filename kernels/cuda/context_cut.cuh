// How decode attention cuts a sequence's context, and how the results of the parts become one.
//
// Bit for bit the result of a sequence depends on its own context alone, while blocks must be few
// and long for many sequences, and many and short for one. So the tree of additions is fixed, and
// only where it is cut between blocks is not: keys of a piece are summed as the online softmax
// does; pieces are folded into spans, and spans into the whole, from the first to the last. A block
// computes parts, which are all pieces or all spans; what it has not folded MergeParts does, by the
// same operations.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace polystrate::cuda {

inline constexpr int kSpanKeys = 1024;
inline constexpr int kMaxSpans = 32;  // longer contexts have spans of more keys instead

struct ContextCut {
  int part_keys;  // keys of a part, but for the last
  int num_parts;
  int span_parts;  // parts that make a span
};

// piece_keys divides kSpanKeys. Parts are spans where there are at least min_spans, which, unlike
// piece_keys, may depend on the batch.
__device__ __forceinline__ ContextCut CutContext(int context_len, int piece_keys, int min_spans) {
  const int factor = max(1, (context_len - 1) / (kSpanKeys * kMaxSpans) + 1);
  const int span_keys = factor * kSpanKeys;
  const bool spans = (context_len + span_keys - 1) / span_keys >= min_spans;
  ContextCut cut;
  cut.part_keys = spans ? span_keys : piece_keys;
  cut.num_parts = (context_len + cut.part_keys - 1) / cut.part_keys;
  cut.span_parts = spans ? 1 : span_keys / piece_keys;
  return cut;
}

// No context of at most max_context_len tokens has more parts.
inline int64_t MaxParts(int64_t max_context_len, int64_t piece_keys, int64_t min_spans) {
  const int64_t spans = std::min<int64_t>((max_context_len + kSpanKeys - 1) / kSpanKeys, kMaxSpans);
  int64_t pieces = (max_context_len + piece_keys - 1) / piece_keys;
  // Contexts with longer spans have at least half of kMaxSpans.
  if (min_spans <= kMaxSpans / 2) {
    pieces = std::min(pieces, (min_spans - 1) * (kSpanKeys / piece_keys));
  }
  return std::max(spans, pieces);
}

// What two results of one row are multiplied with as they become one.
struct FoldScale {
  float kept;
  float added;
};

// Maxima are of scores times log2(e). Equal ones need no scale, not even both -infinity: nothing
// yet, and nothing but scores of -infinity.
__device__ __forceinline__ FoldScale FoldMax(float added, float* max) {
  const float new_max = fmaxf(*max, added);
  const FoldScale scale = {*max == new_max ? 1.0f : Exp2(*max - new_max),
                           added == new_max ? 1.0f : Exp2(added - new_max)};
  *max = new_max;
  return scale;
}

__device__ __forceinline__ float Fold(float kept, float added, FoldScale scale) {
  return fmaf(added, scale.added, kept * scale.kept);
}

}  // namespace polystrate::cuda
