#include "engine/tensor_reader.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/testing/expect_status.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One stored tensor "x" and a reader of it.
class Stored {
 public:
  Stored(const std::string& dtype, std::vector<int64_t> shape, std::string bytes)
      : shape_(std::move(shape)) {
    WriteCheckpoint(dir_.path(), {{"x", dtype, shape_, std::move(bytes)}}, 1);
    checkpoint_ = Checkpoint::Open(dir_.path());
    CHECK(checkpoint_.ok());
  }
  absl::Status Check(const std::vector<int64_t>& shape) const {
    return TensorReader(*checkpoint_).Check("x", shape);
  }
  template <typename T>
  void Read(const Block& block, int64_t rows, int64_t columns, std::vector<T>* out) const {
    const Tensor dst(out->data(), kDTypeOf<T>, Device{}, {rows, columns});
    ASSERT_TRUE(Check(shape_).ok());
    ASSERT_TRUE(TensorReader(*checkpoint_).Read("x", block, dst).ok());
  }
  // All of it, as one row of `count`.
  template <typename T>
  std::vector<T> ReadAll(int64_t count) const {
    std::vector<T> out(static_cast<size_t>(count));
    const Tensor dst(out.data(), kDTypeOf<T>, Device{}, {count});
    EXPECT_TRUE(TensorReader(*checkpoint_).Read("x", {0, count}, dst).ok());
    return out;
  }

 private:
  const TempDir dir_;
  const std::vector<int64_t> shape_;
  absl::StatusOr<Checkpoint> checkpoint_;
};

TEST(TensorReaderTest, EveryHalfIsWidenedExactly) {
  std::string bytes;
  for (int half = 0; half < 65536; ++half) {
    bytes.push_back(static_cast<char>(half & 255));
    bytes.push_back(static_cast<char>(half >> 8));
  }
  const std::vector<float> expected = DecodeFloats(bytes, "F16");
  const Stored stored("F16", {65536}, bytes);
  const auto floats = stored.ReadAll<float>(65536);
  const auto narrow = stored.ReadAll<BFloat16>(65536);
  for (size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(expected[i])) {
      ASSERT_TRUE(std::isnan(floats[i]) && std::isnan(narrow[i].ToFloat())) << i;
      continue;
    }
    ASSERT_EQ(floats[i], expected[i]) << i;
    ASSERT_EQ(std::signbit(floats[i]), std::signbit(expected[i])) << i;
    ASSERT_EQ(narrow[i].bits, BFloat16::FromFloat(expected[i]).bits) << i;
  }
}

TEST(TensorReaderTest, FloatRoundsToNearestEvenBFloat16) {
  struct Case {
    uint32_t bits;
    uint16_t rounded;
  };
  const Case cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81},
                        {0x3f818000, 0x3f82}, {0x3f817fff, 0x3f81}, {0x80000000, 0x8000},
                        {0x7f7fffff, 0x7f80}, {0xff800000, 0xff80}, {0x00000001, 0x0000},
                        {0x00008001, 0x0001}};
  std::vector<float> values;
  for (const Case& c : cases) values.push_back(std::bit_cast<float>(c.bits));
  values.push_back(std::bit_cast<float>(0x7f800001u));  // a NaN whose payload lies in the lost half
  const auto count = static_cast<int64_t>(values.size());
  const Stored stored("F32", {count}, EncodeFloats(values, "F32"));
  const auto rounded = stored.ReadAll<BFloat16>(count);
  for (size_t i = 0; i < std::size(cases); ++i)
    EXPECT_EQ(rounded[i].bits, cases[i].rounded) << std::hex << cases[i].bits;
  EXPECT_TRUE(std::isnan(rounded.back().ToFloat()));
  const auto same = stored.ReadAll<float>(count);
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(std::bit_cast<uint32_t>(same[i]), std::bit_cast<uint32_t>(values[i]));
}

TEST(TensorReaderTest, BFloat16IsKeptOrWidenedExactly) {
  const std::vector<float> values = {1.0f, -0.0f, kInfinity, 0x1p-133f, -3.140625f};
  const Stored stored("BF16", {5}, EncodeFloats(values, "BF16"));
  EXPECT_EQ(stored.ReadAll<float>(5), values);
  const auto kept = stored.ReadAll<BFloat16>(5);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(kept[i].ToFloat(), values[i]);
}

// More elements than one staging buffer holds, in whole rows and in columns.
TEST(TensorReaderTest, LargeBlocksArriveWhole) {
  constexpr int64_t kRows = 3, kColumns = 700'001;
  std::vector<float> values(kRows * kColumns);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 251);
  for (const std::string dtype : {"F32", "F16", "BF16"}) {
    const Stored stored(dtype, {kRows, kColumns}, EncodeFloats(values, dtype));
    std::vector<BFloat16> all(values.size());
    stored.Read({0, kRows, 0, kColumns}, kRows, kColumns, &all);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(all[i].ToFloat(), values[i]) << dtype << i;
    std::vector<float> slice(2 * 600'000);
    stored.Read({1, 2, 100'000, 600'000}, 2, 600'000, &slice);
    for (size_t i = 0; i < slice.size(); ++i) {
      const size_t row = 1 + i / 600'000;
      ASSERT_EQ(slice[i], values[row * kColumns + 100'000 + i % 600'000]) << dtype << i;
    }
  }
}

TEST(TensorReaderTest, WhatIsOutsideTheBlockStays) {
  std::vector<float> values(12);
  std::iota(values.begin(), values.end(), 1.0f);
  const Stored stored("F32", {3, 4}, EncodeFloats(values, "F32"));
  std::vector<float> dst(12, -1.0f);
  stored.Read({1, 2, 1, 2}, 4, 3, &dst);
  EXPECT_EQ(dst, (std::vector<float>{6, 7, -1, 10, 11, -1, -1, -1, -1, -1, -1, -1}));
  dst.assign(12, -1.0f);
  stored.Read({0, 3, 0, 0}, 4, 3, &dst);
  stored.Read({3, 0, 0, 3}, 4, 3, &dst);
  EXPECT_EQ(dst, std::vector<float>(12, -1.0f));
}

TEST(TensorReaderTest, CheckSaysWhatWasFoundAndExpected) {
  const Stored matrix("F32", {3, 4}, std::string(48, '\0'));
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_TRUE(matrix.Check({3, 4}).ok());
  EXPECT_TRUE(Fails(matrix.Check({4, 3}), invalid,
                    "model.safetensors has shape [3, 4]; by config.json it should be [4, 3]"));
  EXPECT_TRUE(Fails(matrix.Check({12}), invalid, "should be [12]"));
  for (const std::string dtype : {"F64", "I64"}) {
    const Stored wide(dtype, {3}, std::string(24, '\0'));
    EXPECT_TRUE(
        Fails(wide.Check({3}), invalid, "is stored as " + dtype + "; a weight must be F32"));
  }
}

}  // namespace
}  // namespace polystrate
