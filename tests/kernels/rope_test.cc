#include <cmath>

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
      const int64_t gap = rotary_dim == head_dim ? 0 : 7;
      HostTensor x = HostTensor(dtype(), {kTokens, kHeads * head_dim}, kHeads * head_dim + gap)
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

struct StoreCase {
  int64_t query_heads;  // 0: no query
  int64_t kv_heads;
  int64_t block_size;
  int head_dim;
  int rotary_dim;
  int64_t gap;  // between rows, in elements
};

// A rank's projections of kTokens tokens, in one matrix as the engine has them.
struct StoreInputs {
  static constexpr int64_t kTokens = 9, kBlocks = 5;

  StoreInputs(DType dtype, const StoreCase& c, uint64_t seed)
      : columns((c.query_heads + 2 * c.kv_heads) * c.head_dim),
        query_columns(c.query_heads * c.head_dim),
        kv_columns(c.kv_heads * c.head_dim),
        random(seed),
        qkv(HostTensor(dtype, {kTokens, columns}, columns + c.gap).FillNormal(random)) {}
  Tensor query() const {
    return query_columns == 0 ? Tensor() : qkv.tensor().Columns(0, query_columns);
  }
  Tensor key() const { return qkv.tensor().Columns(query_columns, kv_columns); }
  Tensor value() const { return qkv.tensor().Columns(query_columns + kv_columns, kv_columns); }

  int64_t columns, query_columns, kv_columns;
  Random random;
  HostTensor qkv;
};

std::vector<StoreCase> StoreCases() {
  return {
      {4, 2, 16, 64, 64, 0},    {8, 1, 16, 128, 32, 0}, {3, 3, 1, 2, 0, 7},
      {5, 1, 3, 10, 6, 3},      {0, 3, 16, 46, 22, 8},  {0, 1, 4, 512, 512, 0},
      {7, 2, 16, 80, 20, 1},    {3, 1, 5, 15, 14, 0},   {16, 16, 16, 96, 24, 0},
      {32, 8, 16, 128, 128, 8},
  };
}

bool Same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Rows' heads at their slots, and NaN, as the cache was filled with, everywhere else.
void ExpectStored(const HostTensor& rows, int64_t first_column, const std::vector<int32_t>& slots,
                  const StoreCase& c, const HostTensor& cache) {
  std::vector<double> expected(StoreInputs::kBlocks * c.kv_heads * c.block_size * c.head_dim,
                               std::nan(""));
  for (int64_t t = 0; t < StoreInputs::kTokens; ++t) {
    if (slots[t] == -1) continue;
    const int64_t block = slots[t] / c.block_size, offset = slots[t] % c.block_size;
    for (int64_t i = 0; i < c.kv_heads * c.head_dim; ++i) {
      const int64_t head = block * c.kv_heads + i / c.head_dim;
      expected[(head * c.block_size + offset) * c.head_dim + i % c.head_dim] =
          rows.Get(t, first_column + i);
    }
  }
  const auto got = cache.Values();
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_TRUE(Same(got[i], expected[i])) << i;
  EXPECT_TRUE(cache.MarginIntact());
}

// Bit for bit what ApplyRope makes of query and key, at the slots and nowhere else.
TEST_P(RopeTest, RotatesAndStoresAtItsSlotsAndNowhereElse) {
  const HostInts positions({5, 0, 1, 2, 299, 17, 17, 100, 64});
  for (const StoreCase& c : StoreCases()) {
    for (bool rotate_key : {true, false}) {
      SCOPED_TRACE("head_dim " + std::to_string(c.head_dim) + " query heads " +
                   std::to_string(c.query_heads) + (rotate_key ? " post" : " pre"));
      HostTensor table(DType::kFloat32, {300, c.rotary_dim});
      const RopeTable rope{table.tensor(), c.rotary_dim};
      FillRopeTable(RopeFrequencies(kBase, c.rotary_dim), 1.0f, rope);
      std::vector<int32_t> slots = {-1};  // the others scattered, all different while there is room
      for (int32_t t = 1; t < StoreInputs::kTokens; ++t) {
        const int64_t room = StoreInputs::kBlocks * c.block_size;
        slots.push_back(t <= room ? static_cast<int32_t>((t * 7 + 2) % room) : -1);
      }
      const StoreInputs apart(dtype(), c, 2), fused(dtype(), c, 2);
      if (c.query_heads > 0) {
        ApplyRope(stream(), rope, positions.tensor(), c.head_dim, apart.query());
      }
      if (rotate_key) ApplyRope(stream(), rope, positions.tensor(), c.head_dim, apart.key());

      const std::initializer_list<int64_t> dims = {StoreInputs::kBlocks, c.kv_heads, c.block_size,
                                                   c.head_dim};
      const HostTensor keys(dtype(), dims), values(dtype(), dims);
      RotateAndStoreKv(stream(), rope, positions.tensor(), c.head_dim, rotate_key, fused.query(),
                       fused.key(), fused.value(), HostInts(slots).tensor(),
                       {keys.tensor(), values.tensor()});
      ExpectStored(apart.qkv, apart.query_columns, slots, c, keys);
      ExpectStored(apart.qkv, apart.query_columns + apart.kv_columns, slots, c, values);
      for (int64_t t = 0; t < StoreInputs::kTokens; ++t) {
        for (int64_t i = 0; i < c.query_heads * c.head_dim; ++i) {
          ASSERT_EQ(fused.qkv.Get(t, i), apart.qkv.Get(t, i)) << t << ", " << i;
        }
      }
      EXPECT_TRUE(fused.qkv.MarginIntact());
    }
  }
}

TEST_P(RopeTest, StoresNothingOfNoTokens) {
  HostTensor table(DType::kFloat32, {4, 8});
  const HostTensor none(dtype(), {0, 16}), keys(dtype(), {1, 2, 4, 8}),
      values(dtype(), {1, 2, 4, 8});
  const HostInts nothing({});
  RotateAndStoreKv(stream(), {table.tensor(), 8}, nothing.tensor(), 8, /*rotate_key=*/true,
                   none.tensor(), none.tensor(), none.tensor(), nothing.tensor(),
                   {keys.tensor(), values.tensor()});
  for (double value : keys.Values()) EXPECT_TRUE(std::isnan(value));
}

INSTANTIATE_TEST_SUITE_P(Kernels, RopeTest, ::testing::ValuesIn(AllKernelCases()), KernelCaseName);

}  // namespace
}  // namespace polystrate::testing
