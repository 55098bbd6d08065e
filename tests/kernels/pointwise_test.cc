#include <cmath>

#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

class PointwiseTest : public KernelTest {};

TEST_P(PointwiseTest, EmbeddingLookupIsZeroOutsideTheShard) {
  Random random(1);
  constexpr int64_t kRows = 11;
  constexpr int32_t kBegin = 5;
  for (int64_t hidden : {1, 7, 16, 33, 768}) {
    const HostTensor table = HostTensor(dtype(), {kRows, hidden}).FillNormal(random);
    const HostInts ids({5, 4, 15, 16, 0, 9, 1000000, 9});
    HostTensor out(DType::kFloat32, {8, hidden});
    EmbeddingLookup(stream(), ids.tensor(), table.tensor(), kBegin, out.tensor());
    for (int64_t t = 0; t < 8; ++t) {
      const int64_t row = ids.values()[t] - kBegin;
      for (int64_t i = 0; i < hidden; ++i) {
        const double expected = row >= 0 && row < kRows ? table.Get(row, i) : 0.0;
        ASSERT_EQ(out.Get(t, i), expected) << "token " << t;
      }
    }
    EXPECT_TRUE(out.MarginIntact());
  }
}

TEST_P(PointwiseTest, LayerNormMatchesReference) {
  Random random(2);
  for (int64_t tokens : {0, 1, 3, 65}) {
    for (int64_t hidden : {1, 7, 16, 33, 768, 1031}) {
      HostTensor x = HostTensor(DType::kFloat32, {tokens, hidden}, hidden + 3).FillNormal(random);
      // A mean far from zero would show a variance taken as a difference of squares.
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < hidden; ++i) x.Set(t, i, x.Get(t, i) + 10.0);
      }
      const HostTensor weight = HostTensor(DType::kFloat32, {hidden}).FillNormal(random);
      const HostTensor bias = HostTensor(DType::kFloat32, {hidden}).FillNormal(random);
      HostTensor out(dtype(), {tokens, hidden});
      LayerNorm(stream(), x.tensor(), weight.tensor(), bias.tensor(), 1e-5f, out.tensor());
      // The mean's own rounding, 10 * 6e-8, is amplified by weights of up to 4.
      ExpectNear(LayerNormReference(x, weight, bias, 1e-5), out, dtype(),
                 "hidden " + std::to_string(hidden), 4.0);
    }
  }
}

TEST_P(PointwiseTest, LayerNormInPlace) {
  Random random(3);
  HostTensor x = HostTensor(DType::kFloat32, {5, 100}).FillNormal(random);
  const HostTensor weight = HostTensor(DType::kFloat32, {100}).FillNormal(random);
  const HostTensor bias = HostTensor(DType::kFloat32, {100}).FillNormal(random);
  const auto expected = LayerNormReference(x, weight, bias, 1e-5);
  LayerNorm(stream(), x.tensor(), weight.tensor(), bias.tensor(), 1e-5f, x.tensor());
  ExpectNear(expected, x, DType::kFloat32, "in place");
}

TEST_P(PointwiseTest, AddInPlaceIsExact) {
  Random random(4);
  for (int64_t hidden : {0, 1, 7, 33, 768}) {
    HostTensor x = HostTensor(DType::kFloat32, {70, hidden}).FillNormal(random);
    const HostTensor y = HostTensor(DType::kFloat32, {70, hidden}).FillNormal(random);
    std::vector<double> expected = x.Values();
    const auto addend = y.Values();
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] = static_cast<float>(expected[i]) + static_cast<float>(addend[i]);
    }
    AddInPlace(stream(), y.tensor(), x.tensor());
    EXPECT_EQ(x.Values(), expected);
    EXPECT_TRUE(x.MarginIntact());
  }
}

// The vector exp and erf, reached through the operators, over the whole range that matters.
TEST_P(PointwiseTest, ActivationsOverTheWholeRange) {
  constexpr int64_t kPoints = 4001;
  HostTensor x(DType::kFloat32, {1, 1});
  x.Set(0, 0, 1.0);
  HostTensor weight(DType::kFloat32, {kPoints, 1});
  for (int64_t i = 0; i < kPoints; ++i) {
    weight.Set(i, 0, (static_cast<double>(i) - 2000.0) * 0.01);
  }
  for (Activation activation : {Activation::kGelu, Activation::kGeluTanh}) {
    HostTensor out(DType::kFloat32, {1, kPoints});
    Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), out.tensor(), {activation});
    const auto expected = GemmReference(x, weight, nullptr, activation);
    for (int64_t i = 0; i < kPoints; ++i) {
      // Where 1 + erf cancels, absolute accuracy of half an ulp of 1 times |x| is what is promised.
      ASSERT_NEAR(out.Get(0, i), expected[i], 2e-7 * std::max(1.0, std::abs(expected[i])) + 1e-6)
          << weight.Get(i, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, PointwiseTest, AllKernelCases(), KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
