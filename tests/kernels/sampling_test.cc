#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/core/philox.h"
#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Known answers of Random123 (kat_vectors, philox 4x32 with 10 rounds).
TEST(PhiloxTest, KnownAnswers) {
  using Block = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

class SamplingTest : public KernelTest {
 protected:
  // One row, with NaN in the padding behind vocab_size.
  SampleResult SampleOne(std::vector<float> logits, const SampleRow& row) {
    const int64_t vocab_size = static_cast<int64_t>(logits.size());
    logits.resize(logits.size() + 3, kNan);
    const HostArray<float> values(logits);
    const Tensor tensor(values.data(), DType::kFloat32, Device{}, {1, vocab_size + 3});
    return SampleRows(stream(), tensor, vocab_size, {row})[0];
  }

  static std::vector<SampleResult> SampleRows(const Stream& stream, const Tensor& logits,
                                              int64_t vocab_size,
                                              const std::vector<SampleRow>& rows) {
    const auto size = static_cast<int64_t>(rows.size());
    const HostArray<SampleResult> results(size);
    const HostArray<int32_t> drawn(size, -7);
    Sample(stream, logits, vocab_size, rows, results.span(), {},
           Tensor(drawn.data(), DType::kInt32, Device{}, {size}));
    stream.Synchronize();
    for (int64_t i = 0; i < size; ++i) EXPECT_EQ(drawn[i], results[i].token_id);
    return {results.data(), results.data() + results.size()};
  }

  // Draws enough to tell; a GPU that is emulated takes milliseconds for each.
  int NumDraws(int on_cpu) const { return on_gpu() ? on_cpu / 40 : on_cpu; }

  // How often each id is drawn over `draws` positions, all rows of one batch.
  std::vector<int> Histogram(const std::vector<float>& logits, SampleRow row, int draws) {
    const auto vocab_size = static_cast<int64_t>(logits.size());
    std::vector<float> all;
    std::vector<SampleRow> rows;
    for (int i = 0; i < draws; ++i) {
      all.insert(all.end(), logits.begin(), logits.end());
      row.position = static_cast<uint64_t>(i);
      rows.push_back(row);
    }
    const HostArray<float> values(all);
    const Tensor tensor(values.data(), DType::kFloat32, Device{}, {draws, vocab_size});
    std::vector<int> counts(logits.size(), 0);
    for (const SampleResult& result : SampleRows(stream(), tensor, vocab_size, rows)) {
      ++counts.at(result.token_id);
    }
    return counts;
  }

  // Chi-square of the draws against `probabilities`, divided by the degrees of freedom.
  static double ChiSquare(const std::vector<int>& counts,
                          const std::vector<double>& probabilities) {
    const double draws = std::accumulate(counts.begin(), counts.end(), 0.0);
    double chi_square = 0.0;
    int freedom = -1;
    for (size_t i = 0; i < counts.size(); ++i) {
      if (probabilities[i] == 0.0) {
        EXPECT_EQ(counts[i], 0) << "id " << i << " was filtered out";
        continue;
      }
      const double expected = draws * probabilities[i];
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++freedom;
    }
    return freedom == 0 ? 0.0 : chi_square / freedom;
  }
};

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3.0f);
  return logits;
}

TEST_P(SamplingTest, GreedyTakesTheLowestIdOfTies) {
  std::vector<float> logits(100, 1.0f);
  EXPECT_EQ(SampleOne(logits, {.temperature = 0.0f}).token_id, 0);
  logits[37] = logits[83] = 2.0f;
  EXPECT_EQ(SampleOne(logits, {.temperature = 0.0f}).token_id, 37);
  EXPECT_EQ(SampleOne(logits, {.temperature = 9e-6f}).token_id, 37);
  logits[99] = 2.5f;
  EXPECT_EQ(SampleOne(logits, {.temperature = 0.0f}).token_id, 99);
}

TEST_P(SamplingTest, LogprobIsOfTheUnfilteredDistribution) {
  const std::vector<double> p = {0.5, 0.25, 0.125, 0.125};
  const SampleRow row = {.temperature = 0.3f, .top_k = 1};
  const SampleResult result = SampleOne(LogitsOf(p), row);
  EXPECT_EQ(result.token_id, 0);
  EXPECT_NEAR(result.logprob, std::log(0.5), 1e-6);
}

TEST_P(SamplingTest, DrawsFollowTheDistribution) {
  const std::vector<double> p = {0.02, 0.4, 0.08, 0.25, 0.05, 0.2};
  for (uint64_t seed : {1ull, 0xdeadbeefcafeull}) {
    EXPECT_LT(ChiSquare(Histogram(LogitsOf(p), {.seed = seed}, NumDraws(20000)), p), 3.0);
  }
}

TEST_P(SamplingTest, TemperatureReshapes) {
  const std::vector<double> p = {0.1, 0.6, 0.3};
  std::vector<double> squared;  // temperature 1/2
  squared.reserve(p.size());
  for (double x : p) squared.push_back(x * x / (0.01 + 0.36 + 0.09));
  EXPECT_LT(
      ChiSquare(Histogram(LogitsOf(p), {.temperature = 0.5f, .seed = 9}, NumDraws(20000)), squared),
      4.0);
}

TEST_P(SamplingTest, TopKKeepsTheBestAndLowestIdsOfTies) {
  const std::vector<double> p = {0.1, 0.3, 0.1, 0.4, 0.1};
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(p), {.top_k = 2, .seed = 5}, NumDraws(10000)),
                      {0, 3.0 / 7, 0, 4.0 / 7, 0}),
            4.0);
  EXPECT_LT(ChiSquare(Histogram(LogitsOf(p), {.top_k = 3, .seed = 6}, NumDraws(10000)),
                      {0.125, 0.375, 0, 0.5, 0}),
            4.0);
  for (int32_t all : {0, -1, 5, 100}) {
    EXPECT_LT(ChiSquare(Histogram(LogitsOf(p), {.top_k = all, .seed = 7}, NumDraws(10000)), p),
              3.0);
  }
}

TEST_P(SamplingTest, TopPKeepsTheSmallestSetThatReachesIt) {
  const std::vector<double> p = {0.125, 0.5, 0.25, 0.125};
  // Probabilities that float32 holds exactly: 0.5 is reached by the first alone.
  std::vector<float> logits;
  logits.reserve(p.size());
  for (double x : p) logits.push_back(static_cast<float>(std::log2(x) * std::log(2.0)));
  const auto histogram = [&](float top_p, int32_t top_k = 0) {
    return Histogram(logits, {.top_k = top_k, .top_p = top_p, .seed = 8}, NumDraws(4000));
  };
  EXPECT_LT(ChiSquare(histogram(0.49f), {0, 1, 0, 0}), 1.0);
  EXPECT_LT(ChiSquare(histogram(0.51f), {0, 2.0 / 3, 1.0 / 3, 0}), 4.0);
  EXPECT_LT(ChiSquare(histogram(0.80f), {1.0 / 7, 4.0 / 7, 2.0 / 7, 0}), 4.0);
  EXPECT_LT(ChiSquare(histogram(1.0f), p), 4.0);
  EXPECT_LT(ChiSquare(histogram(0.0f), {0, 1, 0, 0}), 1.0);
  // After top_k = 2 the best has probability 2/3 of what is left.
  EXPECT_LT(ChiSquare(histogram(0.65f, 2), {0, 1, 0, 0}), 1.0);
  EXPECT_LT(ChiSquare(histogram(0.68f, 2), {0, 2.0 / 3, 1.0 / 3, 0}), 4.0);
}

// A nucleus larger than the first candidates that are sorted.
TEST_P(SamplingTest, TopPOfAFlatDistribution) {
  const std::vector<float> logits(5000, 0.25f);
  int32_t highest = 0;
  const uint64_t draws = on_gpu() ? 100 : 500;
  for (uint64_t i = 0; i < draws; ++i) {
    const int32_t id = SampleOne(logits, {.top_p = 0.5f, .seed = 3, .position = i}).token_id;
    EXPECT_LE(id, 2500);  // lowest ids first, one more for rounding
    highest = std::max(highest, id);
  }
  EXPECT_GT(highest, 2400);
}

TEST_P(SamplingTest, MaskedLogitsAreNeverDrawn) {
  std::vector<float> logits(50, -kInfinity);
  logits[7] = 0.0f;
  logits[31] = 1.0f;
  for (const SampleRow& row :
       {SampleRow{.seed = 1}, SampleRow{.top_k = 40, .seed = 1}, SampleRow{.top_p = 0.9999f}}) {
    const auto counts = Histogram(logits, row, 100);
    EXPECT_EQ(counts[7] + counts[31], 100);
  }
}

TEST_P(SamplingTest, RowsWithoutADistribution) {
  for (float temperature : {0.0f, 1.0f}) {
    for (size_t size : {1u, 5u, 16u, 33u, 1000u}) {
      for (size_t at : {size_t{0}, size / 2, size - 1}) {
        std::vector<float> logits(size, 1.0f);
        logits[at] = kNan;
        EXPECT_EQ(SampleOne(logits, {.temperature = temperature}).token_id, -1);
        logits[at] = kInfinity;
        EXPECT_EQ(SampleOne(logits, {.temperature = temperature}).token_id, -1);
      }
      EXPECT_EQ(
          SampleOne(std::vector<float>(size, -kInfinity), {.temperature = temperature}).token_id,
          -1);
    }
  }
}

TEST_P(SamplingTest, ADrawDependsOnSeedPositionAndLogitsAlone) {
  Random random(11);
  constexpr int64_t kRows = 9, kVocab = 3001;
  HostTensor logits =
      HostTensor(DType::kFloat32, {kRows, kVocab}, kVocab + 7).FillNormal(random, 3);
  std::vector<SampleRow> rows;
  for (uint64_t i = 0; i < kRows; ++i) {
    rows.push_back({.temperature = 0.5f + 0.1f * static_cast<float>(i),
                    .top_k = i % 3 == 1 ? 50 : 0,
                    .top_p = i % 3 == 2 ? 0.9f : 1.0f,
                    .seed = 1000 + i,
                    .position = i * i});
  }
  const std::optional<Stream> two = MakeStream(2);
  const std::vector<SampleResult> together = SampleRows(*two, logits.tensor(), kVocab, rows);
  for (int64_t i = 0; i < kRows; ++i) {
    const SampleResult alone =
        SampleRows(stream(), logits.tensor().Rows(i, 1), kVocab, {rows[i]})[0];
    EXPECT_EQ(alone.token_id, together[i].token_id);
    EXPECT_EQ(alone.logprob, together[i].logprob);
  }
  int changed_seed = 0, changed_position = 0;
  for (int i = 0; i < 20; ++i) {
    SampleRow row = {.seed = 5, .position = 6};
    const std::vector<float> flat(1000, 0.0f);
    const int32_t id = SampleOne(flat, row).token_id;
    row.seed += static_cast<uint64_t>(i) + 1;
    changed_seed += SampleOne(flat, row).token_id != id;
    row = {.seed = 5, .position = 7 + static_cast<uint64_t>(i)};
    changed_position += SampleOne(flat, row).token_id != id;
  }
  EXPECT_GE(changed_seed, 18);
  EXPECT_GE(changed_position, 18);
}

INSTANTIATE_TEST_SUITE_P(Kernels, SamplingTest, ::testing::ValuesIn(Float32KernelCases(1)),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
