#include "tests/testing/sampling_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "kernels/core/philox.h"

namespace polystrate::testing {
namespace {

// Token ids in the order in which the draw meets them, and the probability of each.
struct Distribution {
  std::vector<int32_t> ids;
  std::vector<double> probabilities;
};

// And makes the rest's probabilities add up to 1.
void KeepFirst(int64_t count, Distribution* d) {
  d->ids.resize(std::min<size_t>(count, d->ids.size()));
  d->probabilities.resize(d->ids.size());
  const double sum = std::accumulate(d->probabilities.begin(), d->probabilities.end(), 0.0);
  for (double& p : d->probabilities) p /= sum;
}

int64_t CountToReach(const std::vector<double>& probabilities, double top_p) {
  double cumulative = 0.0;
  size_t count = 0;
  while (count < probabilities.size() && cumulative < top_p) cumulative += probabilities[count++];
  return static_cast<int64_t>(count);
}

Distribution Distribute(const std::vector<float>& logits, const SampleRow& row) {
  const auto size = static_cast<int64_t>(logits.size());
  const bool has_top_k = row.top_k > 0 && row.top_k < size;
  Distribution d;
  d.ids.resize(size);
  std::iota(d.ids.begin(), d.ids.end(), 0);
  if (row.top_p < 1 || has_top_k) {  // otherwise in the order of ids
    std::stable_sort(d.ids.begin(), d.ids.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  }
  const double max = *std::max_element(logits.begin(), logits.end());
  const auto weight = [&](int32_t id) {
    return std::exp((logits[id] - max) / double{row.temperature});
  };
  std::erase_if(d.ids, [&](int32_t id) { return weight(id) < double{row.min_p}; });
  for (const int32_t id : d.ids) d.probabilities.push_back(weight(id));
  KeepFirst(has_top_k ? row.top_k : size, &d);
  if (row.top_p < 1) KeepFirst(CountToReach(d.probabilities, double{row.top_p}), &d);
  return d;
}

}  // namespace

SampleCase NextDraw(const GenerationRequest& request, const std::vector<int32_t>& eos_token_ids,
                    const std::vector<int32_t>& tokens, const std::vector<float>& logits) {
  const SamplingParams& p = request.sampling;
  SampleCase sample;
  sample.logits = logits;
  sample.row.temperature = static_cast<float>(p.temperature);
  sample.row.top_k = p.top_k;
  sample.row.top_p = static_cast<float>(p.top_p);
  sample.row.min_p = static_cast<float>(p.min_p);
  sample.row.seed = *p.seed;
  sample.row.position = tokens.size();
  sample.row.frequency_penalty = static_cast<float>(p.frequency_penalty);
  sample.row.presence_penalty = static_cast<float>(p.presence_penalty);
  sample.row.repetition_penalty = static_cast<float>(p.repetition_penalty);
  std::map<int32_t, int32_t> counts;
  for (size_t i = 0; i < tokens.size(); ++i) counts[tokens[i]] += i >= request.prompt.size();
  for (const auto& [token, count] : counts) sample.history.push_back({token, count});
  if (tokens.size() - request.prompt.size() >= static_cast<size_t>(request.min_tokens)) {
    return sample;
  }
  std::vector<int32_t> banned = request.stop_token_ids;
  if (!request.ignore_eos) {
    banned.insert(banned.end(), eos_token_ids.begin(), eos_token_ids.end());
  }
  for (const int32_t token : banned) {
    sample.biases.push_back({token, -std::numeric_limits<float>::infinity()});
  }
  return sample;
}

std::vector<float> AdjustedLogits(const SampleCase& sample) {
  const SampleRow& row = sample.row;
  std::vector<float> logits = sample.logits;
  for (const TokenBias& bias : sample.biases) {
    logits[bias.token_id] = static_cast<float>(double{logits[bias.token_id]} + double{bias.bias});
  }
  for (const TokenCount& token : sample.history) {
    double x = logits[token.token_id];
    x = x > 0 ? x / double{row.repetition_penalty} : x * double{row.repetition_penalty};
    x -= double{row.frequency_penalty} * token.count;
    if (token.count > 0) x -= double{row.presence_penalty};
    logits[token.token_id] = static_cast<float>(x);
  }
  return logits;
}

void ExpectDrawn(const SampleCase& sample, int32_t token_id, double tolerance) {
  const std::vector<float> logits = AdjustedLogits(sample);
  ASSERT_TRUE(token_id >= 0 && token_id < static_cast<int64_t>(logits.size())) << token_id;
  if (sample.row.temperature < 1e-5f) {
    const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
    EXPECT_TRUE(tolerance > 0.0 || token_id == best - logits.begin()) << token_id;
    EXPECT_GE(logits[token_id], *best - tolerance);
    return;
  }
  const Distribution d = Distribute(logits, sample.row);
  const auto place = std::find(d.ids.begin(), d.ids.end(), token_id) - d.ids.begin();
  ASSERT_LT(place, static_cast<int64_t>(d.ids.size())) << token_id << " was filtered out";
  const double before =
      std::accumulate(d.probabilities.begin(), d.probabilities.begin() + place, 0.0);
  const double uniform = UniformDraw(sample.row.seed, sample.row.position);
  EXPECT_GE(uniform, before - tolerance);
  EXPECT_LE(uniform, before + d.probabilities[place] + tolerance);
}

}  // namespace polystrate::testing
