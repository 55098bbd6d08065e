// Sample with biases, penalties and min_p against a float64 reference of the whole way from logits
// to the draw.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/kernels/kernel_cases.h"
#include "tests/testing/sampling_reference.h"

namespace polystrate::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Sums of float32 weights against float64.
constexpr double kTolerance = 1e-5;

class PenaltiesTest : public KernelTest {
 protected:
  // All rows in one call, their lists one behind the other; what stood in the results before must
  // not matter, and the logits stay as they are.
  std::vector<SampleResult> SampleAll(const std::vector<SampleCase>& cases) const {
    const auto vocab = static_cast<int64_t>(cases[0].logits.size());
    const auto n = static_cast<int64_t>(cases.size());
    HostTensor logits(DType::kFloat32, {n, vocab + 3}, vocab + 5);
    std::vector<SampleRow> rows;
    std::vector<TokenCount> history = {{-7, -7}};  // of nobody
    std::vector<TokenBias> biases = {{-7, 0.0f}};
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < vocab; ++j) logits.Set(i, j, double{cases[i].logits[j]});
      SampleRow& row = rows.emplace_back(cases[i].row);
      row.history_begin = static_cast<int32_t>(history.size());
      row.biases_begin = static_cast<int32_t>(biases.size());
      history.insert(history.end(), cases[i].history.begin(), cases[i].history.end());
      biases.insert(biases.end(), cases[i].biases.begin(), cases[i].biases.end());
      row.history_end = static_cast<int32_t>(history.size());
      row.biases_end = static_cast<int32_t>(biases.size());
    }
    const std::vector<double> before = logits.Values();
    SampleResult poison;
    poison.token_id = poison.rank = -7;
    poison.candidates.fill({-7, -7.0f});
    const HostArray<SampleResult> results(n, poison);
    Sample(stream(), logits.tensor(), vocab, rows, results.span(), {history, biases});
    stream().Synchronize();
    const std::vector<double> after = logits.Values();
    EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(double)), 0);
    return {results.data(), results.data() + results.size()};
  }
  SampleResult SampleOne(const SampleCase& c) const { return SampleAll({c})[0]; }
};

// Every parameter at random, each often off.
SampleCase RandomCase(int64_t vocab, Random& random) {
  const auto on = [&] { return random.Below(2) == 0; };
  SampleCase c;
  for (int64_t i = 0; i < vocab; ++i) c.logits.push_back(static_cast<float>(3 * random.Normal()));
  c.row.seed = random.Next();
  c.row.position = random.Next();
  c.row.temperature = random.Below(3) == 0 ? 0.0f : static_cast<float>(0.2 + random.Uniform());
  if (on()) c.row.top_k = 1 + static_cast<int32_t>(random.Below(vocab));
  if (on()) c.row.top_p = static_cast<float>(0.05 + 0.9 * random.Uniform());
  if (on()) c.row.min_p = static_cast<float>(0.2 * random.Uniform());
  if (on()) c.row.repetition_penalty = static_cast<float>(0.5 + random.Uniform());
  if (on()) c.row.frequency_penalty = static_cast<float>(4 * random.Uniform() - 2);
  if (on()) c.row.presence_penalty = static_cast<float>(4 * random.Uniform() - 2);
  for (int32_t id = 0; id < vocab; ++id) {
    if (random.Below(4) == 0) c.history.push_back({id, static_cast<int32_t>(random.Below(4))});
    if (random.Below(6) == 0) c.biases.push_back({id, static_cast<float>(5 * random.Normal())});
    if (random.Below(9) == 0) c.biases.push_back({id, -kInfinity});
  }
  return c;
}

TEST_P(PenaltiesTest, DrawsWhatTheReferenceDraws) {
  Random random(31);
  for (int64_t vocab : {11, 64, 501, 3000}) {
    for (int round = 0; round < (on_gpu() ? 3 : 15); ++round) {
      std::vector<SampleCase> cases;
      for (int i = 0; i < 8; ++i) cases.push_back(RandomCase(vocab, random));
      for (size_t i = 0; i < cases.size(); ++i) {  // one token at least has a chance
        std::erase_if(cases[i].biases, [&](const TokenBias& b) {
          return b.token_id == static_cast<int32_t>(i) && b.bias == -kInfinity;
        });
      }
      const std::vector<SampleResult> results = SampleAll(cases);
      for (size_t i = 0; i < cases.size(); ++i) {
        SCOPED_TRACE(::testing::Message()
                     << "vocab " << vocab << " round " << round << " row " << i);
        ExpectDrawn(cases[i], results[i].token_id,
                    cases[i].row.temperature == 0.0f ? 0.0 : kTolerance);
        // Neither the neighbours nor the thread matter.
        EXPECT_EQ(SampleOne(cases[i]).token_id, results[i].token_id);
      }
    }
  }
}

// Penalties that change nothing leave the very draw of a row without any.
TEST_P(PenaltiesTest, NeutralOnesChangeNothing) {
  Random random(32);
  for (int round = 0; round < 50; ++round) {
    SampleCase c = RandomCase(257, random);
    c.row.repetition_penalty = 1.0f;
    c.row.frequency_penalty = c.row.presence_penalty = 0.0f;
    c.biases.clear();
    SampleCase plain = c;
    plain.history.clear();
    EXPECT_EQ(SampleOne(c).token_id, SampleOne(plain).token_id);
  }
}

// What is told of the drawn token is what Score says of it in the logits as they came.
TEST_P(PenaltiesTest, TellsOfTheLogitsAsTheyCame) {
  Random random(33);
  for (int64_t vocab : {5, 21, 400}) {
    for (int32_t count : {kLogProbOnly, 0, 1, 7, kMaxCandidates}) {
      SampleCase c = RandomCase(vocab, random);
      c.row.num_candidates = count;
      c.biases = {{0, 50.0f}};
      const SampleResult result = SampleOne(c);
      const ScoreRow asked{result.token_id, std::max(count, 0)};
      const HostArray<ScoreResult> scores(1);
      const HostArray<float> values(c.logits);
      const Tensor logits(values.data(), DType::kFloat32, Device{}, {1, vocab});
      Score(stream(), logits, vocab, {&asked, 1}, scores.span());
      stream().Synchronize();
      const ScoreResult& scored = scores[0];
      EXPECT_EQ(result.logprob, scored.logprob);
      EXPECT_EQ(result.rank, count == kLogProbOnly ? 0 : scored.rank);
      for (int i = 0; i < kMaxCandidates; ++i) {
        EXPECT_EQ(result.candidates[i].token_id, scored.candidates[i].token_id);
        EXPECT_EQ(result.candidates[i].logprob, scored.candidates[i].logprob);
      }
    }
  }
}

TEST_P(PenaltiesTest, BannedTokensAreNeverDrawn) {
  SampleCase c;
  c.logits = {1.0f, 5.0f, 2.0f, 4.0f, 3.0f};
  c.biases = {{1, -kInfinity}, {3, -kInfinity}};
  c.history = {{1, 2}};  // and no penalty brings one back
  c.row.frequency_penalty = -2.0f;
  for (const float temperature : {0.0f, 2.0f}) {
    for (const int32_t top_k : {0, 4}) {
      for (const float top_p : {1.0f, 0.99f}) {
        for (const float min_p : {0.0f, 0.01f}) {
          c.row.temperature = temperature;
          c.row.top_k = top_k;
          c.row.top_p = top_p;
          c.row.min_p = min_p;
          for (c.row.position = 0; c.row.position < (on_gpu() ? 8 : 40); ++c.row.position) {
            const int32_t id = SampleOne(c).token_id;
            EXPECT_TRUE(id == 0 || id == 2 || id == 4) << id;
            EXPECT_TRUE(id == 4 || temperature > 0.0f);
          }
        }
      }
    }
  }
}

TEST_P(PenaltiesTest, ARowWhoseTokensAreAllBannedHasNone) {
  std::vector<SampleCase> cases(2);
  for (SampleCase& c : cases) c.logits = {1.0f, -kInfinity, 2.0f};
  cases[0].biases = {{0, -kInfinity}, {2, -kInfinity}};
  for (const float temperature : {0.0f, 1.0f}) {
    for (SampleCase& c : cases) c.row.temperature = temperature;
    cases[1].row.min_p = 0.9f;
    const std::vector<SampleResult> results = SampleAll(cases);
    EXPECT_EQ(results[0].token_id, -1);
    EXPECT_FALSE(std::isnan(results[0].logprob));  // the model is not to blame
    EXPECT_EQ(results[1].token_id, 2);             // its neighbour is well
  }
}

TEST_P(PenaltiesTest, ABiasDoesNotHideLogitsThatAreNoDistribution) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    SampleCase c;
    c.logits = {1.0f, bad, 2.0f};
    c.biases = {{1, -kInfinity}};
    const SampleResult result = SampleOne(c);
    EXPECT_EQ(result.token_id, -1);
    EXPECT_TRUE(std::isnan(result.logprob));
  }
}

// The ends of the ranges: a quotient or product beyond float32 neither fails nor turns into a NaN.
TEST_P(PenaltiesTest, ExtremePenaltiesKeepADistribution) {
  constexpr float kTiny = std::numeric_limits<float>::min();
  constexpr float kHuge = std::numeric_limits<float>::max();
  SampleCase c;
  c.logits = {-3.0f, 7.0f, 5.0f, 0.0f};
  c.history = {{0, 1}, {2, 1}, {3, 0}};
  for (const float temperature : {0.0f, 1.0f}) {
    c.row.temperature = temperature;
    c.row.repetition_penalty = kTiny;  // what stood there before is all there is
    EXPECT_EQ(SampleOne(c).token_id, 2);
    c.row.repetition_penalty = kHuge;  // never twice, but of a logit of 0
    const int32_t id = SampleOne(c).token_id;
    EXPECT_TRUE(id == 1 || (temperature > 0.0f && (id == 3 || id == 2))) << id;
  }
  c.row.repetition_penalty = kTiny;
  c.biases = {{2, kHuge}};
  EXPECT_EQ(SampleOne(c).token_id, 2);
}

TEST_P(PenaltiesTest, MinPIsOfTheLikeliest) {
  SampleCase c;
  for (const double p : {0.4, 0.1, 0.3, 0.2}) c.logits.push_back(static_cast<float>(std::log(p)));
  const auto drawn = [&](float min_p) {
    std::vector<bool> seen(4, false);
    c.row.min_p = min_p;
    for (c.row.position = 0; c.row.position < (on_gpu() ? 80 : 300); ++c.row.position) {
      seen.at(SampleOne(c).token_id) = true;
    }
    return seen;
  };
  EXPECT_EQ(drawn(0.0f), (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(drawn(0.24f), (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(drawn(0.26f), (std::vector<bool>{true, false, true, true}));
  EXPECT_EQ(drawn(0.51f), (std::vector<bool>{true, false, true, false}));
  EXPECT_EQ(drawn(1.0f), (std::vector<bool>{true, false, false, false}));
  c.logits[3] = c.logits[0];
  EXPECT_EQ(drawn(1.0f), (std::vector<bool>{true, false, false, true}));
}

INSTANTIATE_TEST_SUITE_P(Kernels, PenaltiesTest, ::testing::ValuesIn(Float32KernelCases(2)),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
