// The models that tests are made from: a fault here would make other tests prove nothing.
#include "tests/testing/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/testing/counter_weights.h"

namespace polystrate {
namespace {

constexpr uint64_t kGoldenSeed = 240609297;

// The first values that tools/counter_weights.py states.
TEST(CounterWeightsTest, AreThoseOfPython) {
  const std::vector<float> embed =
      CounterWeights("gpt_neox.embed_in.weight", {97, 48}, kGoldenSeed);
  ASSERT_EQ(embed.size(), 97u * 48u);
  EXPECT_EQ(embed[0], 0x1.b974p-1f);
  EXPECT_EQ(embed[1], 0x1.f4d89p-3f);
  const std::vector<float> norm =
      CounterWeights("gpt_neox.final_layer_norm.weight", {48}, kGoldenSeed);
  EXPECT_EQ(norm[0], 0x1.03cce6p+0f);
  EXPECT_EQ(norm[1], 0x1.03f8fcp+0f);
}

TEST(CounterWeightsTest, KindsHaveTheirRanges) {
  const auto range = [](const std::string& name, const std::vector<int64_t>& shape, double gain) {
    const std::vector<float> values = CounterWeights(name, shape, 7, gain);
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return std::pair(*low, *high);
  };
  const auto [bias_low, bias_high] = range("a.input_layernorm.bias", {4096}, 5.0);
  EXPECT_NEAR(bias_low, -0.1, 1e-3);
  EXPECT_NEAR(bias_high, 0.1, 1e-3);
  const auto [norm_low, norm_high] = range("a.post_attention_layernorm.weight", {4096}, 5.0);
  EXPECT_NEAR(norm_low, 0.9, 1e-3);
  EXPECT_NEAR(norm_high, 1.1, 1e-3);
  const auto [low, high] = range("mlp.dense_h_to_4h.weight", {64, 48}, 2.0);
  EXPECT_NEAR(low, -2.0 * std::sqrt(3.0 / 48), 1e-3);
  EXPECT_NEAR(high, 2.0 * std::sqrt(3.0 / 48), 1e-3);
}

TEST(TinyModelTest, FusedRowsAreQueryKeyValueHeadByHead) {
  TinyModelSpec spec;
  spec.fused_qkv = true;
  const std::vector<StoredTensor> tensors = TinyModelTensors(spec);
  const auto fused = std::find_if(tensors.begin(), tensors.end(), [](const StoredTensor& t) {
    return t.name == "gpt_neox.layers.0.attention.query_key_value.weight";
  });
  ASSERT_NE(fused, tensors.end());
  EXPECT_EQ(fused->shape, (std::vector<int64_t>{144, 48}));
  const std::vector<float> values = DecodeFloats(fused->bytes, "F32");
  const std::vector<float> key =
      CounterWeights("gpt_neox.layers.0.attention.key.weight", {48, 48}, spec.seed);
  // Head 2 of 6, 8 rows each: its key is the second of the third three.
  for (int row = 0; row < 8; ++row)
    for (int column = 0; column < 48; ++column)
      ASSERT_EQ(values[((2 * 3 + 1) * 8 + row) * 48 + column], key[(2 * 8 + row) * 48 + column]);
  // Taken apart again it is the unfused model.
  const auto apart = TinyModelWeights(spec);
  spec.fused_qkv = false;
  EXPECT_EQ(apart, TinyModelWeights(spec));
}

TEST(SafetensorsWriterTest, HalvesRoundToNearestEven) {
  const std::vector<float> values = {
      0.0f,     -0.0f,    1.0f,       1.00048828125f, 1.00146484375f, 65519.9f,    65520.0f,
      0x1p-24f, 0x1p-25f, 0x1.8p-24f, 0x1p-14f,       -2.5f,          0x1.ff8p-15f};
  const std::vector<float> expected = {0.0f,     -0.0f,    1.0f,        1.0f, 1.001953125f,
                                       65504.0f, INFINITY, 0x1p-24f,    0.0f, 0x1p-23f,
                                       0x1p-14f, -2.5f,    0x1.ff8p-15f};
  EXPECT_EQ(DecodeFloats(EncodeFloats(values, "F16"), "F16"), expected);
}

}  // namespace
}  // namespace polystrate
