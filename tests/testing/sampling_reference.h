// What a token is drawn from, in float64: biases, penalties, temperature, min_p, top_k, top_p.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/request.h"
#include "kernels/ops.h"

namespace polystrate::testing {

// One row with its own lists; row's places in the lists of all are not looked at.
struct SampleCase {
  std::vector<float> logits;
  SampleRow row;
  std::vector<TokenCount> history;
  std::vector<TokenBias> biases;
};

// What an engine draws from once `tokens`, the request's prompt and what it generated so far, are
// there; `logits` are those of the last. The request has a seed.
SampleCase NextDraw(const GenerationRequest& request, const std::vector<int32_t>& eos_token_ids,
                    const std::vector<int32_t>& tokens, const std::vector<float>& logits);

// The logits that a token is drawn from, each rounded once per list it stands in.
std::vector<float> AdjustedLogits(const SampleCase& sample);

// EXPECTs that the draw is `token_id`. Greedy: no adjusted logit is above its own by more than
// `tolerance`, and of equals it is the first (tolerance 0). Otherwise its place in the cumulative
// distribution holds the row's uniform number, but for `tolerance`.
void ExpectDrawn(const SampleCase& sample, int32_t token_id, double tolerance);

}  // namespace polystrate::testing
