// Score: log-probability, rank and candidates against a float64 reference that sorts.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp and its sum in float32, then one rounding of a log-probability of size ten.
constexpr double kTolerance = 4e-6;

class ScoringTest : public KernelTest {
 protected:
  // What stood in the results before must not matter.
  std::vector<ScoreResult> ScoreRows(const HostTensor& logits, int64_t vocab_size,
                                     const std::vector<ScoreRow>& rows) const {
    ScoreResult poison{.logprob = -7.0f, .rank = -7};
    poison.candidates.fill({-7, -7.0f});
    const HostArray<ScoreResult> results(static_cast<int64_t>(rows.size()), poison);
    Score(stream(), logits.tensor(), vocab_size, rows, results.span());
    stream().Synchronize();
    return {results.data(), results.data() + results.size()};
  }
};

void ExpectMatchesReference(const HostTensor& logits, int64_t row, int64_t vocab_size,
                            const ScoreRow& asked, const ScoreResult& result) {
  double sum = 0.0;
  for (int64_t i = 0; i < vocab_size; ++i) sum += std::exp(logits.Get(row, i));
  std::vector<int32_t> order(vocab_size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits.Get(row, a) > logits.Get(row, b); });
  EXPECT_NEAR(result.logprob, logits.Get(row, asked.target) - std::log(sum), kTolerance);
  const auto place = std::find(order.begin(), order.end(), asked.target);
  EXPECT_EQ(result.rank, place - order.begin() + 1);
  for (int64_t i = 0; i < kMaxCandidates; ++i) {
    const TokenLogProb& candidate = result.candidates[i];
    if (i >= std::min<int64_t>(asked.num_candidates, vocab_size)) {
      EXPECT_EQ(candidate.token_id, -1) << i;
      continue;
    }
    EXPECT_EQ(candidate.token_id, order[i]) << i;
    EXPECT_NEAR(candidate.logprob, logits.Get(row, order[i]) - std::log(sum), kTolerance) << i;
  }
}

TEST_P(ScoringTest, MatchesReference) {
  Random random(12);
  for (int64_t vocab : {1, 7, 16, 20, 21, 1025, 50000}) {
    const HostTensor logits =
        HostTensor(DType::kFloat32, {6, vocab}, vocab + 5).FillNormal(random, 4);
    std::vector<ScoreRow> rows;
    for (int32_t count : {0, 1, 2, 5, 19, kMaxCandidates}) {
      rows.push_back({static_cast<int32_t>(random.Below(vocab)), count});
    }
    const std::vector<ScoreResult> results = ScoreRows(logits, vocab, rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      SCOPED_TRACE(vocab);
      ExpectMatchesReference(logits, static_cast<int64_t>(i), vocab, rows[i], results[i]);
    }
  }
}

// Logits of three values alone: nearly all of them are ties.
TEST_P(ScoringTest, AmongEqualsTheLowestIdComesFirst) {
  Random random(13);
  constexpr int64_t kVocab = 301;
  HostTensor logits(DType::kFloat32, {1, kVocab}, kVocab);
  for (int64_t i = 0; i < kVocab; ++i) {
    logits.Set(0, i, static_cast<double>(random.Below(3)) - 1.0);
  }
  int first_ranks = 0;
  for (int32_t target = 0; target < kVocab; ++target) {
    const ScoreRow row{target, on_gpu() ? 3 : kMaxCandidates};  // emulated, each takes its time
    const ScoreResult result = ScoreRows(logits, kVocab, {row})[0];
    ExpectMatchesReference(logits, 0, kVocab, row, result);
    const HostArray<SampleResult> greedy(1);
    const SampleRow argmax{.temperature = 0.0f};
    Sample(stream(), logits.tensor(), kVocab, {&argmax, 1}, greedy.span());
    stream().Synchronize();
    EXPECT_EQ(result.rank == 1, greedy[0].token_id == target);
    first_ranks += result.rank == 1 ? 1 : 0;
  }
  EXPECT_EQ(first_ranks, 1);
}

TEST_P(ScoringTest, MaskedLogitsComeLast) {
  constexpr int64_t kVocab = 40;
  HostTensor logits(DType::kFloat32, {1, kVocab}, kVocab);
  for (int64_t i = 0; i < kVocab; ++i) logits.Set(0, i, -kInfinity);
  logits.Set(0, 9, 0.5);
  logits.Set(0, 30, 0.5);
  const ScoreResult result = ScoreRows(logits, kVocab, {{3, 4}})[0];
  EXPECT_EQ(result.logprob, -kInfinity);
  EXPECT_EQ(result.rank, 2 + 3 + 1);
  EXPECT_EQ(result.candidates[0].token_id, 9);
  EXPECT_EQ(result.candidates[1].token_id, 30);
  EXPECT_EQ(result.candidates[2].token_id, 0);
  EXPECT_EQ(result.candidates[2].logprob, -kInfinity);
}

TEST_P(ScoringTest, RowsWithoutADistribution) {
  for (int64_t vocab : {1, 5, 16, 33, 1000}) {
    for (float bad : {std::nanf(""), kInfinity, -kInfinity}) {
      HostTensor logits(DType::kFloat32, {2, vocab}, vocab + 3);
      for (int64_t i = 0; i < vocab; ++i) {
        logits.Set(0, i, bad == -kInfinity || i == vocab - 1 ? bad : 1.0);
        logits.Set(1, i, 1.0);
      }
      const std::vector<ScoreResult> results = ScoreRows(logits, vocab, {{0, 5}, {0, 5}});
      EXPECT_TRUE(std::isnan(results[0].logprob));
      EXPECT_EQ(results[0].rank, 0);
      for (const TokenLogProb& candidate : results[0].candidates) {
        EXPECT_EQ(candidate.token_id, -1);
      }
      EXPECT_EQ(results[1].rank, 1);  // its neighbour is well
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, ScoringTest, ::testing::ValuesIn(Float32KernelCases(2)),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
