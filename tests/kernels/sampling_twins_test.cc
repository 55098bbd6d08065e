// Sample on a GPU against Sample on the CPU: the same tokens, ranks and candidates. Both add
// weights up exactly or nearly so, and only a draw within some 1e-7 of the border of two tokens, of
// which a row has one draw, could differ: none does here.

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp and its sum in float32 on both sides, then one rounding of a log-probability of size ten.
constexpr double kTolerance = 4e-6;

enum class Shape : uint8_t { kNormal, kSteps, kThreeValues, kFlat, kNearlyFlat, kMasked };
constexpr Shape kShapes[] = {Shape::kNormal, Shape::kSteps,      Shape::kThreeValues,
                             Shape::kFlat,   Shape::kNearlyFlat, Shape::kMasked};

double LogitOf(Shape shape, double scale, Random& random) {
  switch (shape) {
    case Shape::kNormal:
      return scale * random.Normal();
    case Shape::kSteps:  // many of some logits
      return std::round(4.0 * scale * random.Normal()) / 4.0;
    case Shape::kThreeValues:
      return static_cast<double>(random.Below(3));
    case Shape::kFlat:
      return 0.25;
    case Shape::kNearlyFlat:
      return 0.003 * random.Normal();
    case Shape::kMasked:
      return random.Below(3) == 0 ? scale * random.Normal() : -kInfinity;
  }
  return 0.0;
}

struct Batch {
  std::vector<SampleRow> rows;
  std::vector<TokenCount> history;
  std::vector<TokenBias> biases;
};

void AddLists(int64_t vocab, Random& random, Batch* batch) {
  for (int32_t id = 0; id < vocab; ++id) {
    if (random.Below(4) == 0) {
      batch->history.push_back({id, static_cast<int32_t>(random.Below(4))});
    }
    if (random.Below(20) == 0) {  // some tokens several times
      batch->biases.push_back(
          {static_cast<int32_t>(random.Below(vocab)), static_cast<float>(5 * random.Normal())});
    }
    if (id > 0 && random.Below(20) == 0) batch->biases.push_back({id, -kInfinity});
  }
}

// Every parameter at random, each often off.
void AddRow(int64_t vocab, Random& random, Batch* batch) {
  const auto on = [&] { return random.Below(2) == 0; };
  SampleRow row;
  row.seed = random.Next();
  row.position = random.Next();
  row.temperature = random.Below(5) == 0 ? 0.0f : static_cast<float>(0.1 + 1.5 * random.Uniform());
  if (on()) row.top_k = 1 + static_cast<int32_t>(random.Below(on() ? 100 : vocab));
  if (on()) {
    row.top_p = static_cast<float>(on() ? random.Uniform() : 0.9 + 0.0999 * random.Uniform());
  }
  if (on()) row.min_p = static_cast<float>(0.2 * random.Uniform());
  row.num_candidates = static_cast<int32_t>(random.Below(kMaxCandidates + 2)) - 1;
  row.history_begin = static_cast<int32_t>(batch->history.size());
  row.biases_begin = static_cast<int32_t>(batch->biases.size());
  if (random.Below(3) == 0) {
    row.repetition_penalty = static_cast<float>(0.5 + random.Uniform());
    row.frequency_penalty = static_cast<float>(4 * random.Uniform() - 2);
    row.presence_penalty = static_cast<float>(4 * random.Uniform() - 2);
    AddLists(vocab, random, batch);
  }
  row.history_end = static_cast<int32_t>(batch->history.size());
  row.biases_end = static_cast<int32_t>(batch->biases.size());
  batch->rows.push_back(row);
}

class SamplingTwinsTest : public KernelTest {
 protected:
  void ExpectSame(const HostTensor& logits, int64_t vocab, const Batch& batch) const {
    SampleResult poison;
    poison.token_id = poison.rank = -7;
    poison.candidates.fill({-7, -7.0f});
    const auto size = static_cast<int64_t>(batch.rows.size());
    const HostArray<SampleResult> expected(size, poison), actual(size, poison);
    const SampleLists lists = {batch.history, batch.biases};
    Sample(Stream::Cpu(1), logits.tensor(), vocab, batch.rows, expected.span(), lists);
    const HostArray<int32_t> drawn(size + 1, -7);
    Sample(stream(), logits.tensor(), vocab, batch.rows, actual.span(), lists,
           Tensor(drawn.data(), DType::kInt32, Device{}, {size}));
    stream().Synchronize();
    EXPECT_EQ(drawn[size], -7);
    for (size_t i = 0; i < batch.rows.size(); ++i) {
      SCOPED_TRACE(::testing::Message() << "vocab " << vocab << " row " << i);
      EXPECT_EQ(actual[i].token_id, expected[i].token_id);
      EXPECT_EQ(drawn[i], expected[i].token_id);
      EXPECT_EQ(actual[i].rank, expected[i].rank);
      EXPECT_NEAR(actual[i].logprob, expected[i].logprob, kTolerance);
      for (int c = 0; c < kMaxCandidates; ++c) {
        const TokenLogProb& candidate = actual[i].candidates[c];
        EXPECT_EQ(candidate.token_id, expected[i].candidates[c].token_id) << c;
        if (candidate.logprob == expected[i].candidates[c].logprob) continue;  // -infinity too
        EXPECT_NEAR(candidate.logprob, expected[i].candidates[c].logprob, kTolerance) << c;
      }
    }
  }
};

TEST_P(SamplingTwinsTest, DrawTheSameTokens) {
  Random random(41);
  for (const Shape shape : kShapes) {
    for (const int64_t vocab : {1, 33, 700, 4097, 15000}) {
      const int64_t num_rows = vocab < 1000 ? 12 : 6;
      HostTensor logits(DType::kFloat32, {num_rows, vocab}, vocab + 3);
      Batch batch;
      for (int64_t i = 0; i < num_rows; ++i) {
        const double scale = 0.3 + 4.0 * random.Uniform();
        for (int64_t j = 0; j < vocab; ++j) logits.Set(i, j, LogitOf(shape, scale, random));
        logits.Set(i, 0, 0.0);
        AddRow(vocab, random, &batch);
      }
      ExpectSame(logits, vocab, batch);
    }
  }
}

TEST_P(SamplingTwinsTest, LargeVocabularies) {
  Random random(42);
  for (const int64_t vocab : {50304, 128256}) {
    const HostTensor logits = HostTensor(DType::kFloat32, {4, vocab}).FillNormal(random, 3.0);
    Batch batch;
    for (int i = 0; i < 4; ++i) AddRow(vocab, random, &batch);
    batch.rows[0].temperature = 0.0f;
    batch.rows[1].temperature = 1.0f;
    batch.rows[1].top_p = 0.95f;
    ExpectSame(logits, vocab, batch);
  }
}

// More than goes to the device in one piece, and more rows than are done at a time.
TEST_P(SamplingTwinsTest, LongListsAndManyRows) {
  Random random(43);
  constexpr int64_t kVocab = 400, kRows = 70;
  const HostTensor logits = HostTensor(DType::kFloat32, {kRows, kVocab}).FillNormal(random, 2.0);
  Batch batch;
  for (int64_t i = 0; i < kRows; ++i) AddRow(kVocab, random, &batch);
  SampleRow& last = batch.rows.back();
  for (int i = 0; i < 150000; ++i) {
    batch.biases.push_back(
        {static_cast<int32_t>(random.Below(kVocab)), static_cast<float>(0.01 * random.Normal())});
  }
  last.biases_end = static_cast<int32_t>(batch.biases.size());
  batch.history.resize(batch.history.size() + 200000);  // of nobody
  last.history_begin = static_cast<int32_t>(batch.history.size());
  for (int32_t id = 0; id < kVocab; id += 3) batch.history.push_back({id, id});
  last.history_end = static_cast<int32_t>(batch.history.size());
  last.frequency_penalty = 0.01f;
  ExpectSame(logits, kVocab, batch);
}

// Many are done at a time up to the first that has lists, few from there on.
TEST_P(SamplingTwinsTest, AFewListsAmongManyRows) {
  Random random(44);
  constexpr int64_t kVocab = 150, kRows = 300;
  const HostTensor logits = HostTensor(DType::kFloat32, {kRows, kVocab}).FillNormal(random, 2.0);
  Batch batch;
  for (int64_t i = 0; i < kRows; ++i) {
    const bool greedy = i < 20 || i > 230;
    batch.rows.push_back({.temperature = greedy ? 0.0f : 0.8f, .seed = random.Next()});
    if (i == 130 || i == 200) {
      SampleRow& row = batch.rows.back();
      row.biases_begin = static_cast<int32_t>(batch.biases.size());
      batch.biases.push_back({static_cast<int32_t>(i) / 2, 10.0f});
      row.biases_end = static_cast<int32_t>(batch.biases.size());
    }
  }
  ExpectSame(logits, kVocab, batch);
  batch.rows.resize(20);  // greedy ones alone
  ExpectSame(HostTensor(DType::kFloat32, {20, kVocab}).FillNormal(random, 2.0), kVocab, batch);
}

INSTANTIATE_TEST_SUITE_P(Kernels, SamplingTwinsTest,
                         ::testing::Values(KernelCase{DType::kFloat32, {DeviceType::kCuda, 0}}),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
