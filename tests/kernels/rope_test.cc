#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

constexpr double kBase = 10000.0;

class RopeTest : public KernelTest {};

TEST_P(RopeTest, RotatesTheFirstDimensionsOfEveryHead) {
  Random random(1);
  constexpr int64_t kTokens = 9, kHeads = 3;
  for (int head_dim : {2, 10, 16, 46, 64, 80, 90, 512}) {
    for (int rotary_dim : {0, 2, head_dim / 4 * 2, head_dim}) {
      HostTensor table(DType::kFloat32, {300, rotary_dim});
      const RopeTable rope{table.tensor(), rotary_dim};
      FillRopeTable(RopeFrequencies(kBase, rotary_dim), 1.0f, rope);
      const HostInts positions({0, 1, 2, 299, 17, 17, 100, 64, 3});
      HostTensor x = HostTensor(dtype(), {kTokens, kHeads * head_dim}, kHeads * head_dim + 7)
                         .FillNormal(random);
      std::vector<double> expected = x.Values();
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t h = 0; h < kHeads; ++h) {
          RotateReference(kBase, rotary_dim, positions.values()[t],
                          expected.data() + (t * kHeads + h) * head_dim);
        }
      }
      ApplyRope(stream(), rope, positions.tensor(), head_dim, x.tensor());
      // Angles of up to 300 radians are themselves rounded to float32: 2e-5.
      ExpectNear(expected, x, dtype(), "head_dim " + std::to_string(head_dim), 4.0);
    }
  }
}

TEST_P(RopeTest, FrequenciesAndFactorAreTheCallers) {
  constexpr int kRotaryDim = 6;
  const std::vector<float> frequencies = {2.0f, 0.125f, 0.0f};
  HostTensor table(DType::kFloat32, {50, kRotaryDim});
  FillRopeTable(frequencies, 1.5f, {table.tensor(), kRotaryDim});
  for (int64_t p = 0; p < 50; ++p) {
    for (int64_t j = 0; j < 3; ++j) {
      const double angle = static_cast<double>(p) * frequencies[j];
      EXPECT_NEAR(table.Get(p, j), 1.5 * std::cos(angle), 1e-6);
      EXPECT_NEAR(table.Get(p, 3 + j), 1.5 * std::sin(angle), 1e-6);
    }
  }
}

TEST_P(RopeTest, StoreKvWritesItsSlotsAndNothingElse) {
  Random random(2);
  constexpr int64_t kTokens = 6, kHeads = 3, kBlocks = 5;
  for (int64_t block_size : {1, 3, 16}) {
    for (int64_t head_dim : {2, 15, 64}) {
      const int64_t width = kHeads * head_dim;
      const HostTensor key = HostTensor(dtype(), {kTokens, width}, 3 * width).FillNormal(random);
      const HostTensor value = HostTensor(dtype(), {kTokens, width}).FillNormal(random);
      HostTensor keys(dtype(), {kBlocks, kHeads, block_size, head_dim});
      HostTensor values(dtype(), {kBlocks, kHeads, block_size, head_dim});
      std::vector<int32_t> slots;
      slots.reserve(kTokens);
      for (int32_t t = 0; t < kTokens; ++t) {  // scattered, all different when there is room
        slots.push_back(static_cast<int32_t>((t * 7 + 2) % (kBlocks * block_size)));
      }
      StoreKv(stream(), key.tensor(), value.tensor(), HostInts(slots).tensor(),
              {keys.tensor(), values.tensor()});
      std::vector<double> expected(kBlocks * kHeads * block_size * head_dim, std::nan(""));
      std::vector<double> expected_values = expected;
      for (int64_t t = 0; t < kTokens; ++t) {
        for (int64_t c = 0; c < width; ++c) {
          const int64_t block = slots[t] / block_size, offset = slots[t] % block_size;
          const int64_t at =
              ((block * kHeads + c / head_dim) * block_size + offset) * head_dim + c % head_dim;
          expected[at] = key.Get(t, c);
          expected_values[at] = value.Get(t, c);
        }
      }
      const auto same = [](double a, double b) {
        return a == b || (std::isnan(a) && std::isnan(b));
      };
      const auto got = keys.Values(), got_values = values.Values();
      for (size_t i = 0; i < expected.size(); ++i) {
        ASSERT_TRUE(same(got[i], expected[i])) << i;
        ASSERT_TRUE(same(got_values[i], expected_values[i])) << i;
      }
      EXPECT_TRUE(keys.MarginIntact() && values.MarginIntact());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, RopeTest, AllKernelCases(), KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
