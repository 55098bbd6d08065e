// Sample with biases, penalties and min_p against a float64 reference of the whole way from logits
// to the draw.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/philox.h"
#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One row with its own lists.
struct Case {
  std::vector<float> logits;
  SampleRow row;
  std::vector<TokenCount> history;
  std::vector<TokenBias> biases;
};

// The logits that a token is drawn from, each rounded once per list it stands in.
std::vector<float> AdjustedReference(const Case& c) {
  std::vector<float> logits = c.logits;
  for (const TokenBias& bias : c.biases) {
    logits[bias.token_id] = static_cast<float>(double{logits[bias.token_id]} + double{bias.bias});
  }
  for (const TokenCount& token : c.history) {
    double x = logits[token.token_id];
    x = x > 0 ? x / double{c.row.repetition_penalty} : x * double{c.row.repetition_penalty};
    x -= double{c.row.frequency_penalty} * token.count;
    if (token.count > 0) x -= double{c.row.presence_penalty};
    logits[token.token_id] = static_cast<float>(x);
  }
  return logits;
}

// Token ids in the order in which the draw meets them, and the probability of each.
struct Distribution {
  std::vector<int32_t> ids;
  std::vector<double> probabilities;
};

void KeepFirst(size_t count, Distribution* d) {
  d->ids.resize(std::min(count, d->ids.size()));
  d->probabilities.resize(d->ids.size());
  const double sum = std::accumulate(d->probabilities.begin(), d->probabilities.end(), 0.0);
  for (double& p : d->probabilities) p /= sum;
}

Distribution DistributionReference(const std::vector<float>& logits, const SampleRow& row) {
  Distribution d;
  d.ids.resize(logits.size());
  std::iota(d.ids.begin(), d.ids.end(), 0);
  const bool filtered = row.min_p > 0 || row.top_p < 1 ||
                        (row.top_k > 0 && row.top_k < static_cast<int64_t>(logits.size()));
  if (filtered) {
    std::stable_sort(d.ids.begin(), d.ids.end(),
                     [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  }
  const double max = *std::max_element(logits.begin(), logits.end());
  for (int32_t id : d.ids) {
    d.probabilities.push_back(std::exp((logits[id] - max) / double{row.temperature}));
  }
  if (filtered) {
    const auto too_small = [&](double p) { return p < double{row.min_p}; };
    KeepFirst(std::find_if(d.probabilities.begin(), d.probabilities.end(), too_small) -
                  d.probabilities.begin(),
              &d);
    if (row.top_k > 0) KeepFirst(row.top_k, &d);
    double cumulative = 0.0;
    size_t count = 0;
    while (row.top_p < 1 && count < d.ids.size() && cumulative < double{row.top_p}) {
      cumulative += d.probabilities[count++];
    }
    if (row.top_p < 1) KeepFirst(count, &d);
  }
  KeepFirst(d.ids.size(), &d);  // normalises
  return d;
}

// `result` is what the reference draws: its place in the cumulative distribution holds the row's
// uniform number, but for the rounding of float32 weights.
void ExpectDrawn(const Case& c, const SampleResult& result) {
  constexpr double kTolerance = 1e-5;
  const std::vector<float> logits = AdjustedReference(c);
  if (c.row.temperature == 0.0f) {
    const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
    EXPECT_EQ(result.token_id, best - logits.begin());
    return;
  }
  const Distribution d = DistributionReference(logits, c.row);
  const auto place = std::find(d.ids.begin(), d.ids.end(), result.token_id) - d.ids.begin();
  ASSERT_LT(place, static_cast<int64_t>(d.ids.size())) << result.token_id << " was filtered out";
  const double before =
      std::accumulate(d.probabilities.begin(), d.probabilities.begin() + place, 0.0);
  const double uniform = cpu::UniformDraw(c.row.seed, c.row.position);
  EXPECT_GE(uniform, before - kTolerance);
  EXPECT_LE(uniform, before + d.probabilities[place] + kTolerance);
}

class PenaltiesTest : public ::testing::TestWithParam<cpu::Isa> {
 protected:
  void SetUp() override {
    if (!cpu::Supports(GetParam())) GTEST_SKIP() << "this processor lacks the instruction set";
    stream_.cpu().UseIsa(GetParam());
    stream_.cpu().SetMinParallelWork(0);
  }

  // All rows in one call, their lists one behind the other; what stood in the results before must
  // not matter, and the logits stay as they are.
  std::vector<SampleResult> SampleAll(const std::vector<Case>& cases) const {
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
    std::vector<SampleResult> results(n, poison);
    Sample(stream_, logits.tensor(), vocab, rows, absl::MakeSpan(results), {history, biases});
    const std::vector<double> after = logits.Values();
    EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size() * sizeof(double)), 0);
    return results;
  }
  SampleResult SampleOne(const Case& c) const { return SampleAll({c})[0]; }

  Stream stream_ = Stream::Cpu(2);
};

// Every parameter at random, each often off.
Case RandomCase(int64_t vocab, Random& random) {
  const auto on = [&] { return random.Below(2) == 0; };
  Case c;
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
    for (int round = 0; round < 15; ++round) {
      std::vector<Case> cases;
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
        ExpectDrawn(cases[i], results[i]);
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
    Case c = RandomCase(257, random);
    c.row.repetition_penalty = 1.0f;
    c.row.frequency_penalty = c.row.presence_penalty = 0.0f;
    c.biases.clear();
    Case plain = c;
    plain.history.clear();
    EXPECT_EQ(SampleOne(c).token_id, SampleOne(plain).token_id);
  }
}

// What is told of the drawn token is what Score says of it in the logits as they came.
TEST_P(PenaltiesTest, TellsOfTheLogitsAsTheyCame) {
  Random random(33);
  for (int64_t vocab : {5, 21, 400}) {
    for (int32_t count : {kLogProbOnly, 0, 1, 7, kMaxCandidates}) {
      Case c = RandomCase(vocab, random);
      c.row.num_candidates = count;
      c.biases = {{0, 50.0f}};
      const SampleResult result = SampleOne(c);
      const ScoreRow asked{result.token_id, std::max(count, 0)};
      ScoreResult scored;
      const Tensor logits(c.logits.data(), DType::kFloat32, Device{}, {1, vocab});
      Score(stream_, logits, vocab, {&asked, 1}, {&scored, 1});
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
  Case c;
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
          for (c.row.position = 0; c.row.position < 40; ++c.row.position) {
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
  std::vector<Case> cases(2);
  for (Case& c : cases) c.logits = {1.0f, -kInfinity, 2.0f};
  cases[0].biases = {{0, -kInfinity}, {2, -kInfinity}};
  for (const float temperature : {0.0f, 1.0f}) {
    for (Case& c : cases) c.row.temperature = temperature;
    cases[1].row.min_p = 0.9f;
    const std::vector<SampleResult> results = SampleAll(cases);
    EXPECT_EQ(results[0].token_id, -1);
    EXPECT_FALSE(std::isnan(results[0].logprob));  // the model is not to blame
    EXPECT_EQ(results[1].token_id, 2);             // its neighbour is well
  }
}

TEST_P(PenaltiesTest, ABiasDoesNotHideLogitsThatAreNoDistribution) {
  for (const float bad : {std::nanf(""), kInfinity}) {
    Case c;
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
  Case c;
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
  Case c;
  for (const double p : {0.4, 0.1, 0.3, 0.2}) c.logits.push_back(static_cast<float>(std::log(p)));
  const auto drawn = [&](float min_p) {
    std::vector<bool> seen(4, false);
    c.row.min_p = min_p;
    for (c.row.position = 0; c.row.position < 300; ++c.row.position) {
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

std::string IsaName(const ::testing::TestParamInfo<cpu::Isa>& info) {
  return info.param == cpu::Isa::kAvx2 ? "avx2" : "avx512";
}

INSTANTIATE_TEST_SUITE_P(Kernels, PenaltiesTest,
                         ::testing::Values(cpu::Isa::kAvx2, cpu::Isa::kAvx512Bf16), IsaName);

}  // namespace
}  // namespace polystrate::testing
