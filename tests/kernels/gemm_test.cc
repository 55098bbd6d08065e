#include "kernels/core/step_graph.h"
#include "tests/kernels/kernel_cases.h"

namespace polystrate::testing {
namespace {

struct Shape {
  int64_t m, n, k;
};
// Around the edges of the CPU's tiles (4 weights, 2 or 4 rows, 8 to 32 elements of k) and passes
// (64 rows and columns), of a GPU's (8 or 16 rows, 16 weights, 8, 64, 512 and 2048 elements of k),
// of the borders to the libraries (16 and 32 rows); MLKV's odd sizes; nothing at all.
constexpr Shape kShapes[] = {
    {0, 5, 7},     {1, 1, 1},     {1, 64, 32},   {1, 130, 768}, {2, 3, 93},    {3, 65, 31},
    {4, 66, 33},   {5, 7, 16},    {7, 129, 100}, {8, 64, 64},   {15, 31, 93},  {16, 33, 95},
    {17, 40, 93},  {33, 129, 65}, {65, 67, 127}, {64, 128, 96}, {3, 4, 1},     {40, 1, 33},
    {129, 50, 17}, {1, 3777, 96}, {1, 17, 520},  {2, 15, 2056}, {8, 20, 1032}, {9, 33, 4104},
    {17, 24, 64},  {33, 40, 72},  {200, 24, 40}, {20, 5, 0}};

std::string Describe(const Shape& s) {
  return "m " + std::to_string(s.m) + " n " + std::to_string(s.n) + " k " + std::to_string(s.k);
}

class GemmTest : public KernelTest {};

TEST_P(GemmTest, MatchesReferenceOnOddShapes) {
  Random random(1);
  for (const Shape& s : kShapes) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(s.k));
    const HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random, scale);
    for (DType out_dtype : {DType::kFloat32, dtype()}) {
      HostTensor out(out_dtype, {s.m, s.n});
      Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), out.tensor());
      ExpectNear(GemmReference(x, weight, nullptr, Activation::kNone), out, out_dtype, Describe(s));
    }
  }
}

// More weights than a GPU's thread blocks take in one tile each.
TEST_P(GemmTest, ManyWeights) {
  Random random(7);
  const Shape s = {9, 4300, 72};
  const HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
  const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random, 0.1);
  const HostTensor bias = HostTensor(DType::kFloat32, {s.n}).FillNormal(random);
  HostTensor out(dtype(), {s.m, s.n});
  Gemm(stream(), x.tensor(), weight.tensor(), bias.tensor(), out.tensor());
  ExpectNear(GemmReference(x, weight, &bias, Activation::kNone), out, dtype(), Describe(s));
}

// As many columns as make a GPU keep the products of some rows only.
TEST_P(GemmTest, ManyRowsOfManyWeights) {
  Random random(8);
  const Shape s = {150, 72000, 8};
  const HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
  const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random);
  HostTensor out(dtype(), {s.m, s.n});
  Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), out.tensor(), {Activation::kRelu});
  ExpectNear(GemmReference(x, weight, nullptr, Activation::kRelu), out, dtype(), Describe(s), 3.0);
}

TEST_P(GemmTest, StridedRowsBiasAndActivation) {
  Random random(2);
  for (Activation activation : {Activation::kNone, Activation::kGelu, Activation::kGeluTanh,
                                Activation::kRelu, Activation::kSilu}) {
    for (const Shape& s : kShapes) {
      const double scale = 1.0 / std::sqrt(static_cast<double>(s.k));
      // Where rows can begin on 16 bytes, they do.
      const int64_t x_stride = s.k + (s.k % 8 == 0 ? 8 : 5);
      const HostTensor x = HostTensor(dtype(), {s.m, s.k}, x_stride).FillNormal(random);
      const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random, scale);
      const HostTensor bias = HostTensor(DType::kFloat32, {s.n}).FillNormal(random);
      HostTensor out(dtype(), {s.m, s.n}, s.n + 3);
      Gemm(stream(), x.tensor(), weight.tensor(), bias.tensor(), out.tensor(), {activation});
      ExpectNear(GemmReference(x, weight, &bias, activation), out, dtype(),
                 Describe(s) + " activation " + std::to_string(static_cast<int>(activation)));
    }
  }
}

TEST_P(GemmTest, Accumulates) {
  Random random(3);
  for (const Shape& s : kShapes) {
    const double scale = 1.0 / std::sqrt(static_cast<double>(s.k));
    const HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random, scale);
    const HostTensor bias = HostTensor(DType::kFloat32, {s.n}).FillNormal(random);
    HostTensor out = HostTensor(DType::kFloat32, {s.m, s.n}, s.n + 1).FillNormal(random);
    std::vector<double> expected = out.Values();
    const auto product = GemmReference(x, weight, &bias, Activation::kNone);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += product[i];
    Gemm(stream(), x.tensor(), weight.tensor(), bias.tensor(), out.tensor(), {.accumulate = true});
    ExpectNear(expected, out, DType::kFloat32, Describe(s));
  }
}

// What NormGemm takes for shape s, and what a norm and Gemm make of the same.
struct NormCase {
  NormCase(const Shape& s, DType dtype, bool centered, Random& random)
      : weight(HostTensor(dtype, {s.n, s.k}).FillNormal(random, 0.1)),
        bias(HostTensor(DType::kFloat32, {s.n}).FillNormal(random)),
        norm_weight(HostTensor(DType::kFloat32, {s.k}).FillNormal(random)),
        norm_bias(HostTensor(DType::kFloat32, {s.k}).FillNormal(random)),
        normed(dtype, {s.m, s.k}),
        out(dtype, {s.m, s.n}),
        expected(dtype, {s.m, s.n}) {
    product.norm = {norm_weight.tensor(), centered ? norm_bias.tensor() : Tensor(), 1e-5f};
    product.weight = weight.tensor();
    product.bias = bias.tensor();
    product.out = out.tensor();
    product.options = {Activation::kGelu};
  }
  void Expect(const Stream& stream, const HostTensor& x) {
    const NormOptions& norm = product.norm;
    if (norm.bias.empty()) {
      RmsNorm(stream, x.tensor(), norm.weight, norm.epsilon, normed.tensor(), norm.add);
    } else {
      LayerNorm(stream, x.tensor(), norm.weight, norm.bias, norm.epsilon, normed.tensor(),
                norm.add);
    }
    Gemm(stream, normed.tensor(), product.weight, product.bias, expected.tensor(), product.options);
  }

  HostTensor weight, bias, norm_weight, norm_bias, normed, out, expected;
  NormProduct product;
};

// Whether a GPU does both in one, so that these tests have something to compare.
bool NormsAsItMultiplies(const Shape& s, DType dtype) {
  return dtype != DType::kFloat32 && s.m <= 8 && s.m * s.k <= 8192 && s.k % 8 == 0;
}

constexpr Shape kNormShapes[] = {{1, 40, 768},  {3, 33, 768},  {8, 20, 64},  {8, 5, 1024},
                                 {1, 24, 1032}, {2, 17, 2056}, {1, 6, 4096}, {1, 5, 20000},
                                 {5, 9, 2048},  {9, 8, 64},    {2, 5, 33},   {40, 24, 64}};

// Bit for bit, so that a row's results do not depend on how many there are, which is what decides.
TEST_P(GemmTest, NormGemmIsANormAndAGemm) {
  Random random(10);
  for (const Shape& s : kNormShapes) {
    for (const bool centered : {true, false}) {
      for (const bool adds : {false, true}) {
        NormCase c(s, dtype(), centered, random);
        const HostTensor x = HostTensor(DType::kFloat32, {s.m, s.k}, s.k + 4).FillNormal(random);
        const HostTensor add = HostTensor(DType::kFloat32, {s.m, s.k}).FillNormal(random);
        HostTensor sum(DType::kFloat32, {s.m, s.k});
        for (int64_t r = 0; r < s.m; ++r) {
          for (int64_t i = 0; i < s.k; ++i) sum.Set(r, i, x.Get(r, i));
        }
        if (adds) c.product.norm.add = add.tensor();
        c.normed.FillNan();
        NormGemm(stream(), x.tensor(), c.normed.tensor(), c.product);
        EXPECT_EQ(std::isnan(c.normed.Get(0, 0)),
                  on_gpu() && !adds && NormsAsItMultiplies(s, dtype()))
            << Describe(s);
        c.Expect(stream(), sum);
        EXPECT_EQ(c.out.Values(), c.expected.Values()) << Describe(s);
      }
    }
  }
}

TEST_P(GemmTest, GatedNormGemmIsItsParts) {
  Random random(12);
  for (const Shape& s : kNormShapes) {
    for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
      const HostTensor x = HostTensor(DType::kFloat32, {s.m, s.k}).FillNormal(random);
      NormCase c({s.m, 2 * s.n, s.k}, dtype(), /*centered=*/false, random);
      c.product.options = {};
      c.product.bias = {};
      c.normed.FillNan();
      const HostTensor out(dtype(), {s.m, s.n}), expected(dtype(), {s.m, s.n});
      GatedNormGemm(stream(), x.tensor(), c.normed.tensor(), c.product, activation, out.tensor());
      EXPECT_EQ(std::isnan(c.normed.Get(0, 0)), on_gpu() && NormsAsItMultiplies(s, dtype()))
          << Describe(s);
      c.Expect(stream(), x);
      GatedActivation(stream(), c.expected.tensor(), activation, expected.tensor());
      EXPECT_EQ(out.Values(), expected.Values()) << Describe(s);
    }
  }
}

TEST_P(GemmTest, NormGemmsAreTwo) {
  Random random(11);
  for (const Shape& s : kNormShapes) {
    for (const int64_t n : {1, 7, 300}) {
      const HostTensor x = HostTensor(DType::kFloat32, {s.m, s.k}).FillNormal(random);
      NormCase first(s, dtype(), /*centered=*/true, random);
      NormCase second({s.m, n, s.k}, dtype(), /*centered=*/true, random);
      HostTensor normed(dtype(), {s.m, s.k});
      normed.FillNan();
      NormGemms(stream(), x.tensor(), normed.tensor(), first.product, second.product);
      EXPECT_EQ(std::isnan(normed.Get(0, 0)), on_gpu() && NormsAsItMultiplies(s, dtype()))
          << Describe(s);
      for (NormCase* c : {&first, &second}) {
        c->Expect(stream(), x);
        EXPECT_EQ(c->out.Values(), c->expected.Values()) << Describe(s) << " and " << n;
      }
    }
  }
}

// With few rows (up to 32 on the CPU, 16 on a GPU), what a row gives does not depend on the rows
// beside it.
TEST_P(GemmTest, FewRowsAreIndependent) {
  Random random(4);
  const int64_t rows = on_gpu() ? 16 : 32;
  constexpr int64_t kN = 37;
  for (int64_t k : {333, 1032}) {
    const HostTensor x = HostTensor(dtype(), {rows, k}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {kN, k}).FillNormal(random);
    HostTensor all(DType::kFloat32, {rows, kN});
    Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), all.tensor());
    for (int64_t m = 1; m < rows; ++m) {
      HostTensor some(DType::kFloat32, {m, kN});
      Gemm(stream(), x.tensor().Rows(rows - m, m), weight.tensor(), Tensor(), some.tensor());
      for (int64_t i = 0; i < m * kN; ++i) {
        ASSERT_EQ(some.Get(i / kN, i % kN), all.Get(rows - m + i / kN, i % kN)) << m << " rows";
      }
    }
  }
}

// The same bits every time.
TEST_P(GemmTest, Repeats) {
  Random random(6);
  for (const Shape& s : {Shape{1, 600, 2064}, {3, 40, 333}, {16, 100, 520}, {40, 64, 96}}) {
    const HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random);
    HostTensor first(DType::kFloat32, {s.m, s.n}), again(DType::kFloat32, {s.m, s.n});
    Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), first.tensor());
    Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), again.tensor());
    EXPECT_EQ(first.Values(), again.Values()) << Describe(s);
  }
}

// A NaN in one row of x stays in that row.
TEST_P(GemmTest, NanStaysInItsRow) {
  Random random(5);
  for (int64_t m : {3, 40}) {
    HostTensor x = HostTensor(dtype(), {m, 65}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {9, 65}).FillNormal(random);
    x.Set(1, 64, std::numeric_limits<double>::quiet_NaN());
    HostTensor out(DType::kFloat32, {m, 9});
    Gemm(stream(), x.tensor(), weight.tensor(), Tensor(), out.tensor());
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < 9; ++c) EXPECT_EQ(std::isnan(out.Get(r, c)), r == 1) << r;
    }
  }
}

// Recorded once after one run, replayed on what lies there then: own kernels, cuBLASLt, and the
// pass behind it.
class RecordedGemmTest : public KernelTest {};

TEST_P(RecordedGemmTest, ReplaysOnNewInput) {
  Random random(9);
  for (const Shape& s : {Shape{3, 70, 264}, {2, 9, 33}, {24, 70, 264}}) {
    HostTensor x = HostTensor(dtype(), {s.m, s.k}).FillNormal(random);
    const HostTensor weight = HostTensor(dtype(), {s.n, s.k}).FillNormal(random, 0.06);
    const HostTensor bias = HostTensor(DType::kFloat32, {s.n}).FillNormal(random);
    HostTensor plain(DType::kFloat32, {s.m, s.n}), finished(dtype(), {s.m, s.n});
    const auto work = [&] {
      Gemm(stream(), x.tensor(), weight.tensor(), bias.tensor(), plain.tensor());
      Gemm(stream(), x.tensor(), weight.tensor(), bias.tensor(), finished.tensor(),
           {Activation::kGelu});
    };
    work();
    const StepGraph graph(stream(), work);
    for (int64_t r = 0; r < s.m; ++r) {
      for (int64_t c = 0; c < s.k; ++c) x.Set(r, c, random.Normal());
    }
    graph.Replay(stream());
    stream().Synchronize();
    ExpectNear(GemmReference(x, weight, &bias, Activation::kNone), plain, DType::kFloat32,
               Describe(s));
    ExpectNear(GemmReference(x, weight, &bias, Activation::kGelu), finished, dtype(), Describe(s));
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, RecordedGemmTest, ::testing::ValuesIn(GpuKernelCases()),
                         KernelCaseName);
INSTANTIATE_TEST_SUITE_P(Kernels, GemmTest, ::testing::ValuesIn(AllKernelCases()), KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
