#include "engine/dummy_weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/paper_variants.h"
#include "engine/weights.h"

namespace polystrate {
namespace {

std::vector<float> Values(const std::string& name, std::vector<int64_t> shape, const Block& block,
                          std::vector<float> memory = {}) {
  if (memory.empty()) memory.assign(block.num_rows * block.num_columns, NAN);
  const Tensor dst(memory.data(), DType::kFloat32, Device{}, {block.num_rows, block.num_columns});
  FillDummy(name, shape, block, dst);
  return memory;
}

TEST(FillDummyTest, IsWhatItWasAlways) {
  const std::vector<float> values = Values("a.weight", {2, 3}, {0, 2, 0, 3});
  EXPECT_EQ(values, Values("a.weight", {2, 3}, {0, 2, 0, 3}));
  EXPECT_FLOAT_EQ(values[0], -0.029338397f)
      << "pinned: throughput runs of different days must agree";
}

TEST(FillDummyTest, IsSmallCentredAndSpread) {
  const std::vector<float> values = Values("b.weight", {300, 400}, {0, 300, 0, 400});
  double sum = 0, squares = 0;
  for (float value : values) {
    ASSERT_LE(std::abs(value), 0.0351f);
    sum += value;
    squares += double{value} * value;
  }
  const auto n = static_cast<double>(values.size());
  EXPECT_NEAR(sum / n, 0, 3e-4);
  EXPECT_NEAR(std::sqrt(squares / n), 0.0202, 1e-4);
}

TEST(FillDummyTest, NormsAreAroundOneAndBiasesAroundZero) {
  for (float weight : Values("norm.weight", {64}, {0, 64})) EXPECT_NEAR(weight, 1, 0.036);
  for (float bias : Values("norm.bias", {64}, {0, 64})) EXPECT_NEAR(bias, 0, 0.036);
}

TEST(FillDummyTest, AnyBlockIsThatBlockOfTheWhole) {
  const int64_t rows = 7, columns = 11;
  const std::vector<float> whole = Values("c.weight", {rows, columns}, {0, rows, 0, columns});
  const Block block{2, 4, 3, 5};
  const std::vector<float> part = Values("c.weight", {rows, columns}, block);
  for (int64_t row = 0; row < block.num_rows; ++row) {
    for (int64_t column = 0; column < block.num_columns; ++column) {
      EXPECT_EQ(part[row * block.num_columns + column],
                whole[(block.row_begin + row) * columns + block.column_begin + column]);
    }
  }
}

// Large ones are filled by several threads.
TEST(FillDummyTest, ALargeTensorIsItsRows) {
  const int64_t rows = 5, columns = int64_t{2} << 20;
  const std::vector<float> whole = Values("c.weight", {rows, columns}, {0, rows, 0, columns});
  for (int64_t row = 0; row < rows; ++row) {
    const std::vector<float> alone = Values("c.weight", {rows, columns}, {row, 1, 0, columns});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), whole.begin() + row * columns)) << row;
  }
}

TEST(FillDummyTest, TensorsDiffer) {
  const Block block{0, 4, 0, 4};
  const auto a = Values("layers.0.weight", {4, 4}, block);
  const auto b = Values("layers.1.weight", {4, 4}, block);
  for (float value : a) EXPECT_EQ(std::count(b.begin(), b.end(), value), 0);
}

TEST(FillDummyTest, Bfloat16IsTheSameRounded) {
  const auto expected = Values("d.weight", {8, 8}, {0, 8, 0, 8});
  std::vector<BFloat16> got(64, BFloat16{0x7fc0});
  FillDummy("d.weight", {8, 8}, {0, 8, 0, 8},
            Tensor(got.data(), DType::kBFloat16, Device{}, {8, 8}));
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].ToFloat(), BFloat16::FromFloat(expected[i]).ToFloat());
  }
}

// A rank's share of a real model's shape is that share of the whole, padding included.
TEST(DummyStageWeightsTest, AreTheSameWhateverTheCut) {
  ModelConfig config = MlkvVariants()[4].config;  // MLKV-12, intermediate_size 3777
  config.num_layers = 2;
  config.vocab_size = 96;
  config.sharing.kv_source = {0, 0};
  const Stage stage{0, 2, 0, {0}};
  const auto load = [&](int tp_size, int rank) {
    const Topology topology({tp_size, 1}, rank);
    auto weights = DummyStageWeights(config, topology, stage, DType::kFloat32, Device{});
    EXPECT_TRUE(weights.ok()) << weights.status();
    return *std::move(weights);
  };
  const StageWeights whole = load(1, 0);
  EXPECT_EQ(whole.layers[0].qkv_proj.weight.dim(0), 768 + 2 * 3 * 64);
  EXPECT_EQ(whole.layers[1].qkv_proj.weight.dim(0), 768);
  for (int rank = 0; rank < 2; ++rank) {
    const StageWeights half = load(2, rank);
    const Tensor& part = half.layers[1].down_proj.weight;
    const Tensor& all = whole.layers[1].down_proj.weight;
    ASSERT_EQ(part.dim(1), half.intermediate.padded);
    for (int64_t row : {0, 1, 767}) {
      for (int64_t column = 0; column < half.intermediate.padded; ++column) {
        const float expected =
            column < half.intermediate.count
                ? all.data<float>()[row * all.dim(1) + half.intermediate.begin + column]
                : 0.0f;
        ASSERT_EQ(part.data<float>()[row * part.dim(1) + column], expected);
      }
    }
    const Tensor& query = half.layers[1].qkv_proj.weight;
    EXPECT_TRUE(std::equal(query.data<float>(), query.data<float>() + query.num_elements(),
                           whole.layers[1].qkv_proj.weight.data<float>() + rank * 384 * 768));
  }
}

}  // namespace
}  // namespace polystrate
