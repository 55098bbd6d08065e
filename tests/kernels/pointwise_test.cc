#include <cmath>

#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

class PointwiseTest : public KernelTest {};

// Between rows, in elements: none, so that rows of GPUs' widths begin where their widest accesses
// may, and one after which they do not.
constexpr int64_t kGaps[] = {0, 3};

struct NormCase {
  int64_t tokens, hidden, gap;
  std::string Name() const {
    return std::to_string(tokens) + " x " + std::to_string(hidden) + " + " + std::to_string(gap);
  }
};
// Widths on both sides of where a GPU gives a thread more of a row, and beyond its registers.
std::vector<NormCase> NormCases() {
  std::vector<NormCase> cases;
  for (int64_t gap : kGaps) {
    for (int64_t hidden : {1, 7, 16, 33, 768, 1028, 1031}) {
      for (int64_t tokens : {0, 1, 3, 65}) cases.push_back({tokens, hidden, gap});
    }
    for (int64_t hidden : {5120, 8192, 8196, 16384, 16388}) cases.push_back({2, hidden, gap});
    cases.push_back({1003, 4, gap});
  }
  return cases;
}

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

// Tokens that are known to the device alone, among others; of one of them nothing could be drawn.
TEST_P(PointwiseTest, EmbeddingLookupFindsFedTokens) {
  Random random(3);
  constexpr int64_t kRows = 11;
  const HostInts drawn({4, -1, 2, 1000000, 10});
  const HostInts ids({3, FedToken(2), FedToken(0), 7, FedToken(1), FedToken(3), FedToken(4)});
  for (const auto& [begin, expected] :
       {std::pair(0, std::vector<int64_t>{3, 2, 4, 7, 0, -1, 10}),
        std::pair(3, std::vector<int64_t>{0, -1, 1, 4, -1, -1, 7})}) {
    for (int64_t hidden : {1, 33, 768}) {
      const HostTensor table = HostTensor(dtype(), {kRows, hidden}).FillNormal(random);
      HostTensor out(DType::kFloat32, {7, hidden});
      EmbeddingLookup(stream(), ids.tensor(), table.tensor(), begin, out.tensor(), drawn.tensor());
      stream().Synchronize();
      for (int64_t t = 0; t < 7; ++t) {
        for (int64_t i = 0; i < hidden; ++i) {
          ASSERT_EQ(out.Get(t, i), expected[t] < 0 ? 0.0 : table.Get(expected[t], i)) << t;
        }
      }
      EXPECT_TRUE(out.MarginIntact());
    }
  }
}

TEST_P(PointwiseTest, LayerNormMatchesReference) {
  Random random(2);
  for (const NormCase& c : NormCases()) {
    HostTensor x =
        HostTensor(DType::kFloat32, {c.tokens, c.hidden}, c.hidden + c.gap).FillNormal(random);
    // A mean far from zero would show a variance taken as a difference of squares; but the sum of a
    // long row of them is itself rounded by more than is allowed here.
    const double shift = c.hidden < 16384 ? 10.0 : 1.0;
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t i = 0; i < c.hidden; ++i) x.Set(t, i, x.Get(t, i) + shift);
    }
    const HostTensor weight = HostTensor(DType::kFloat32, {c.hidden}).FillNormal(random);
    const HostTensor bias = HostTensor(DType::kFloat32, {c.hidden}).FillNormal(random);
    HostTensor out(dtype(), {c.tokens, c.hidden});
    LayerNorm(stream(), x.tensor(), weight.tensor(), bias.tensor(), 1e-5f, out.tensor());
    // The mean's own rounding, 10 * 6e-8, is amplified by weights of up to 4.
    ExpectNear(LayerNormReference(x, weight, bias, 1e-5), out, dtype(), c.Name(), 4.0);
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

TEST_P(PointwiseTest, RmsNormMatchesReference) {
  Random random(5);
  for (const NormCase& c : NormCases()) {
    const HostTensor x =
        HostTensor(DType::kFloat32, {c.tokens, c.hidden}, c.hidden + c.gap).FillNormal(random);
    const HostTensor weight = HostTensor(DType::kFloat32, {c.hidden}).FillNormal(random);
    HostTensor out(dtype(), {c.tokens, c.hidden});
    RmsNorm(stream(), x.tensor(), weight.tensor(), 1e-6f, out.tensor());
    ExpectNear(RmsNormReference(x, weight, 1e-6), out, dtype(), c.Name(), 4.0);
  }
}

// x, weight, bias and an addend of a norm; twice the same from the same seed.
struct NormInputs {
  explicit NormInputs(const NormCase& c)
      : x(HostTensor(DType::kFloat32, {c.tokens, c.hidden}, c.hidden + c.gap).FillNormal(random)),
        add(HostTensor(DType::kFloat32, {c.tokens, c.hidden}, c.hidden + 2 * c.gap)
                .FillNormal(random)),
        weight(HostTensor(DType::kFloat32, {c.hidden}).FillNormal(random)),
        bias(HostTensor(DType::kFloat32, {c.hidden}).FillNormal(random)) {}

  Random random{10};
  HostTensor x, add, weight, bias;
};

TEST_P(PointwiseTest, LayerNormOfASumIsThatAfterAddInPlace) {
  for (const NormCase& c : NormCases()) {
    const NormInputs apart(c), fused(c);
    const HostTensor expected(dtype(), {c.tokens, c.hidden}), out(dtype(), {c.tokens, c.hidden});
    AddInPlace(stream(), apart.add.tensor(), apart.x.tensor());
    LayerNorm(stream(), apart.x.tensor(), apart.weight.tensor(), apart.bias.tensor(), 1e-5f,
              expected.tensor());
    LayerNorm(stream(), fused.x.tensor(), fused.weight.tensor(), fused.bias.tensor(), 1e-5f,
              out.tensor(), fused.add.tensor());
    EXPECT_EQ(fused.x.Values(), apart.x.Values()) << c.Name();
    EXPECT_EQ(out.Values(), expected.Values()) << c.Name();
    EXPECT_TRUE(out.MarginIntact() && fused.x.MarginIntact()) << c.Name();
  }
}

TEST_P(PointwiseTest, RmsNormOfASumIsThatAfterAddInPlace) {
  for (const NormCase& c : NormCases()) {
    const NormInputs apart(c), fused(c);
    const HostTensor expected(dtype(), {c.tokens, c.hidden}), out(dtype(), {c.tokens, c.hidden});
    AddInPlace(stream(), apart.add.tensor(), apart.x.tensor());
    RmsNorm(stream(), apart.x.tensor(), apart.weight.tensor(), 1e-5f, expected.tensor());
    RmsNorm(stream(), fused.x.tensor(), fused.weight.tensor(), 1e-5f, out.tensor(),
            fused.add.tensor());
    EXPECT_EQ(fused.x.Values(), apart.x.Values()) << c.Name();
    EXPECT_EQ(out.Values(), expected.Values()) << c.Name();
    EXPECT_TRUE(out.MarginIntact() && fused.x.MarginIntact()) << c.Name();
  }
}

// Small rows, where epsilon counts, and a row of zeros.
TEST_P(PointwiseTest, RmsNormInPlaceWithALargeEpsilon) {
  Random random(6);
  HostTensor x = HostTensor(DType::kFloat32, {5, 100}).FillNormal(random, 0.01);
  for (int64_t i = 0; i < 100; ++i) x.Set(3, i, 0.0);
  const HostTensor weight = HostTensor(DType::kFloat32, {100}).FillNormal(random);
  const auto expected = RmsNormReference(x, weight, 1e-3);
  RmsNorm(stream(), x.tensor(), weight.tensor(), 1e-3f, x.tensor());
  ExpectNear(expected, x, DType::kFloat32, "in place");
}

TEST_P(PointwiseTest, HeadRmsNormMatchesReference) {
  Random random(7);
  for (int64_t head_dim : {1, 15, 32, 46, 90, 128, 512}) {
    for (int64_t num_heads : {1, 3}) {
      for (int64_t gap : kGaps) {
        const int64_t width = num_heads * head_dim;
        HostTensor x = HostTensor(dtype(), {9, width}, width + gap).FillNormal(random, 3.0);
        const HostTensor weight = HostTensor(DType::kFloat32, {head_dim}).FillNormal(random);
        const auto expected = RmsNormReference(x, weight, 1e-6);
        HeadRmsNorm(stream(), weight.tensor(), 1e-6f, x.tensor());
        ExpectNear(expected, x, dtype(), "head_dim " + std::to_string(head_dim), 4.0);
      }
    }
  }
}

TEST_P(PointwiseTest, GatedActivationMatchesReference) {
  Random random(8);
  for (Activation activation : {Activation::kNone, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kRelu, Activation::kSilu}) {
    for (int64_t tokens : {0, 1, 70}) {
      for (int64_t n : {1, 7, 32, 96, 1031, 2056}) {
        const int64_t gap = kGaps[(tokens + n) % 2];
        const HostTensor gate_up =
            HostTensor(dtype(), {tokens, 2 * n}, 2 * n + gap).FillNormal(random, 2.0);
        HostTensor out(dtype(), {tokens, n});
        GatedActivation(stream(), gate_up.tensor(), activation, out.tensor());
        ExpectNear(GatedActivationReference(gate_up, activation), out, dtype(),
                   "n " + std::to_string(n), 16.0);
      }
    }
  }
}

// A NaN must reach the logits, where it ends the request, and only its own row.
TEST_P(PointwiseTest, NanStaysInItsRow) {
  Random random(9);
  HostTensor x = HostTensor(DType::kFloat32, {3, 40}).FillNormal(random);
  HostTensor gate_up = HostTensor(dtype(), {3, 40}).FillNormal(random);
  x.Set(1, 7, std::nan(""));
  gate_up.Set(1, 7, std::nan(""));
  const HostTensor weight = HostTensor(DType::kFloat32, {40}).FillNormal(random);
  HostTensor normed(dtype(), {3, 40}), gated(dtype(), {3, 20});
  RmsNorm(stream(), x.tensor(), weight.tensor(), 1e-6f, normed.tensor());
  GatedActivation(stream(), gate_up.tensor(), Activation::kSilu, gated.tensor());
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(std::isnan(normed.Get(t, i)), t == 1);
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(gated.Get(t, i)), t == 1 && i == 7);
  }
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

TEST_P(PointwiseTest, ConcatColumnsIsExact) {
  Random random(11);
  for (int64_t n : {1, 7, 32, 1100}) {
    for (int64_t num_parts : {1, 3}) {
      for (int64_t gap : kGaps) {
        constexpr int64_t kTokens = 5;
        const HostTensor parts =
            HostTensor(DType::kFloat32, {num_parts, kTokens, n}).FillNormal(random);
        const HostTensor out(DType::kFloat32, {kTokens, num_parts * n}, num_parts * n + gap);
        ConcatColumns(stream(), parts.tensor(), out.tensor());
        for (int64_t t = 0; t < kTokens; ++t) {
          for (int64_t i = 0; i < num_parts * n; ++i) {
            ASSERT_EQ(out.Get(t, i), parts.Get(i / n, t * n + i % n)) << t << ", " << i;
          }
        }
        EXPECT_TRUE(out.MarginIntact());
      }
    }
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
  for (Activation activation : {Activation::kGelu, Activation::kGeluTanh, Activation::kSilu}) {
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

INSTANTIATE_TEST_SUITE_P(Kernels, PointwiseTest, ::testing::ValuesIn(AllKernelCases()),
                         KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
