// Float16: IEEE 754 binary16, a storage type. The CPU converts it; only GPUs compute with it.
#pragma once

#include <bit>
#include <cstdint>

namespace polystrate {

struct Float16 {
  uint16_t bits;

  // Rounds to nearest even; what is too large becomes infinity, NaN stays NaN.
  static Float16 FromFloat(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const auto sign = static_cast<uint16_t>(u >> 16 & 0x8000u);
    const uint32_t size = u & 0x7fffffffu;
    uint32_t half = 0;
    if (size > 0x7f800000u) {
      half = 0x7e00u | (size >> 13 & 0x3ffu);
    } else if (size >= 0x47800000u) {  // 2^16
      half = 0x7c00u;
    } else if (size >= 0x38800000u) {  // 2^-14, the smallest normal
      // Rounding may carry into the exponent, up to infinity: that is what it should do.
      half = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    } else {
      // 0.5's last bit weighs 2^-24 as a subnormal's does, so the addition rounds to it.
      half = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000u;
    }
    return {static_cast<uint16_t>(sign | half)};
  }

  // Exact: the exponent is moved into place as a number too small by 2^112, which also turns
  // subnormals into normals; infinity and NaN keep their payload.
  float ToFloat() const {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const uint32_t size = bits & 0x7fffu;
    const auto finite = std::bit_cast<uint32_t>(std::bit_cast<float>(size << 13) * 0x1p112f);
    const uint32_t special = 0x7f800000u | size << 13;
    return std::bit_cast<float>(sign | (size >= 0x7c00u ? special : finite));
  }
};

}  // namespace polystrate
