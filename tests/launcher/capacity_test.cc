#include "launcher/capacity.h"

#include <gtest/gtest.h>

#include "engine/paper_variants.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;

struct Expected {
  const char* name;
  int64_t bytes_per_token;  // at 2 bytes an element
  int64_t max_sequences;    // of 2,048 tokens in 7 GiB
};
// The paper's models, in the order of its table. The bytes are those its own measurements have.
constexpr Expected kExpected[] = {
    {"MHA-144", 36864, 99}, {"GQA-48", 12288, 298},  {"MLKV-48", 12288, 298},
    {"MQA-12", 3072, 1194}, {"MLKV-12", 3072, 1194}, {"MLKV-6", 1536, 2389},
    {"MLKV-4", 1024, 3584}, {"MLKV-2", 512, 7168},   {"MLKV-1", 256, 14336},
};

TEST(CapacityTest, IsThePapersByteForByte) {
  CapacityOptions options;
  options.kv_memory = 7 * kGiB;
  options.resident_sequences = 1;
  const std::vector<PaperVariant> variants = MlkvVariants();
  ASSERT_EQ(variants.size(), std::size(kExpected));
  for (size_t i = 0; i < variants.size(); ++i) {
    const Expected& expected = kExpected[i];
    SCOPED_TRACE(expected.name);
    EXPECT_EQ(variants[i].name, expected.name);
    const auto capacity = MeasureCapacity(variants[i].config, options);
    ASSERT_TRUE(capacity.ok()) << capacity.status();
    EXPECT_EQ(capacity->bytes_per_token, static_cast<double>(expected.bytes_per_token));
    EXPECT_EQ(capacity->formula_bytes, expected.bytes_per_token);
    EXPECT_EQ(capacity->max_sequences, expected.max_sequences);
  }
}

TEST(CapacityTest, Mlkv1Is144TimesSmallerThanMha) {
  const auto variants = MlkvVariants();
  CapacityOptions options;
  options.resident_sequences = 4;
  const auto mha = MeasureCapacity(variants.front().config, options);
  const auto mlkv = MeasureCapacity(variants.back().config, options);
  ASSERT_TRUE(mha.ok() && mlkv.ok());
  EXPECT_EQ(mha->bytes_per_token, 144 * mlkv->bytes_per_token);
#if !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)  // they keep memory of their own
  // 4 sequences of MLKV-1 are one huge page, 2 MiB, exactly; the rest is the program's own.
  EXPECT_NEAR(static_cast<double>(mlkv->resident_bytes), 4 * 2048 * 256, 512e3);
  EXPECT_NEAR(static_cast<double>(mha->resident_bytes), 4 * 2048 * 36864, 512e3);
#endif
}

// A block is taken whole: what does not fill one counts as one.
TEST(CapacityTest, SequencesTakeWholeBlocks) {
  const ModelConfig config = MlkvVariants().back().config;  // 256 bytes per token
  CapacityOptions options;
  options.resident_sequences = 1;
  options.kv_memory = 100 * 16 * 256;
  for (const auto& [length, expected] : {std::pair{16, 100}, {17, 50}, {33, 33}, {1600, 1}}) {
    options.sequence_len = length;
    const auto capacity = MeasureCapacity(config, options);
    ASSERT_TRUE(capacity.ok());
    EXPECT_EQ(capacity->max_sequences, expected) << length;
  }
  options.sequence_len = 1601;
  EXPECT_TRUE(Fails(MeasureCapacity(config, options).status(), absl::StatusCode::kInvalidArgument,
                    "holds no sequence of 1601 tokens: one takes 413696 bytes"));
}

TEST(CapacityTest, RefusesAPoolWithoutABlock) {
  CapacityOptions options;
  options.kv_memory = 16 * 256 - 1;
  EXPECT_TRUE(Fails(MeasureCapacity(MlkvVariants().back().config, options).status(),
                    absl::StatusCode::kInvalidArgument, "--kv_memory 4095 holds no KV block"));
}

TEST(LinearityTest, FitFindsAKnownLine) {
  std::vector<ResidentSample> samples;
  for (int owners : {1, 2, 5}) {
    for (int64_t sequences : {1, 3}) {
      ResidentSample sample{owners, 2, sequences, 100};
      sample.resident_bytes = 7000 + 256 * static_cast<int64_t>(sample.product());
      samples.push_back(sample);
    }
  }
  LinearFit fit = FitResident(samples);
  EXPECT_NEAR(fit.slope, 256, 1e-9);
  EXPECT_NEAR(fit.intercept, 7000, 1e-6);
  EXPECT_NEAR(fit.r_squared, 1, 1e-12);
  EXPECT_NEAR(fit.largest_residual, 0, 1e-6);
  samples[0].resident_bytes += 50000;
  fit = FitResident(samples);
  EXPECT_LT(fit.r_squared, 0.999);
  EXPECT_GT(fit.largest_residual, 10000);
}

// Memory is linear in owners * heads * sequences * length but for whole huge pages (2 MiB).
TEST(LinearityTest, ResidentMemoryIsLinear) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory of their own";
#endif
  const auto samples = MeasureLinearity(/*head_dim=*/64, /*largest=*/12 * 12 * 2048, {});
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_GT(samples->size(), 100u);
  for (const ResidentSample& sample : *samples) {
    const double expected = 2 * 64 * 2 * sample.product();
    EXPECT_GT(static_cast<double>(sample.resident_bytes), expected - 256e3);
    EXPECT_LT(static_cast<double>(sample.resident_bytes), expected + 2.5e6);
  }
  const LinearFit fit = FitResident(*samples);
  EXPECT_NEAR(fit.slope, 256, 3);
  EXPECT_GT(fit.r_squared, 0.995);
}

}  // namespace
}  // namespace polystrate
