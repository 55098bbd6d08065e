#include "kernels/core/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace polystrate {
namespace {

uint16_t Bits(float value) { return Float16::FromFloat(value).bits; }
float Value(int bits) { return Float16{static_cast<uint16_t>(bits)}.ToFloat(); }

// binary16's definition.
double Definition(int bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -size : size;
}

TEST(Float16Test, EveryFiniteValueAndBack) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    if ((bits & 0x7c00) == 0x7c00) continue;
    ASSERT_EQ(Value(bits), Definition(bits)) << bits;
    ASSERT_EQ(Bits(Value(bits)), bits);
  }
}

// Between every two neighbours: what is nearer, and the even one from the middle.
TEST(Float16Test, RoundsToNearestEven) {
  for (int bits = 0; bits < 0x7c00; ++bits) {
    const auto next = static_cast<float>(bits == 0x7bff ? 65536.0 : Definition(bits + 1));
    const float middle = (Value(bits) + next) / 2;  // exact
    const int even = bits % 2 == 0 ? bits : bits + 1;
    for (const int sign : {0, 0x8000}) {
      const float s = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(Bits(s * middle), sign | even) << bits;
      ASSERT_EQ(Bits(s * std::nextafter(middle, 0.0f)), sign | bits) << bits;
      ASSERT_EQ(Bits(s * std::nextafter(middle, 1e9f)), sign | (bits + 1)) << bits;
    }
  }
}

TEST(Float16Test, InfinityAndNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Bits(infinity), 0x7c00);
  EXPECT_EQ(Bits(-1e30f), 0xfc00);
  EXPECT_EQ(Value(0x7c00), infinity);
  EXPECT_TRUE(std::isnan(Value(0x7e01)));
  EXPECT_TRUE(std::isnan(Value(Bits(std::nanf("")))));
  EXPECT_EQ(Bits(std::numeric_limits<float>::denorm_min()), 0);
}

}  // namespace
}  // namespace polystrate
