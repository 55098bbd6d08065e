// The whole model against other implementations: Hugging Face transformers on stock checkpoints,
// and a float64 PyTorch oracle on shared ones under both key rules (tools/make_golden.py).

#include "tests/testing/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

// float32 against float32 or float64: a few hundred roundings of 6e-8 each, relative to the largest
// logit.
constexpr double kTolerance = 1e-5;
// bfloat16 keeps 8 bits: each operand is off by up to 2^-9, and a logit sums hundreds of such
// products.
constexpr double kBFloat16Tolerance = 4e-2;

class GoldenLogits : public ::testing::TestWithParam<std::string> {
 protected:
  // The largest difference over all stored logits, as a share of the largest logit.
  double Difference(DType dtype, bool check_argmax) {
    const Golden golden = ReadGolden(GetParam());
    TempDir dir;
    WriteGoldenModel(dir.path(), golden);
    const auto logits = FullLogits(dir.path(), golden.token_ids, std::nullopt, dtype);
    double largest = 0;
    for (size_t i = 0; i < golden.positions.size(); ++i) {
      const std::vector<float>& row = logits[golden.positions[i]];
      for (size_t j = 0; j < golden.vocab_ids.size(); ++j) {
        const double difference = row[golden.vocab_ids[j]] - golden.logits[i][j];
        EXPECT_TRUE(std::isfinite(difference));
        largest = std::max(largest, std::abs(difference));
      }
      if (check_argmax) {
        EXPECT_EQ(std::max_element(row.begin(), row.end()) - row.begin(), golden.argmax[i]);
      }
    }
    return largest / golden.logit_scale;
  }
};

TEST_P(GoldenLogits, Float32) { EXPECT_LT(Difference(DType::kFloat32, true), kTolerance); }
TEST_P(GoldenLogits, BFloat16) {
  EXPECT_LT(Difference(DType::kBFloat16, false), kBFloat16Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenLogits, ::testing::ValuesIn(GoldenFiles()),
                         [](const auto& test) {
                           return std::filesystem::path(test.param).stem().string();
                         });

TEST(Golden, ThereAreSome) { EXPECT_GE(GoldenFiles().size(), 20u); }

}  // namespace
}  // namespace polystrate
