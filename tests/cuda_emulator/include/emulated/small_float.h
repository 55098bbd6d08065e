// 16-bit floating-point types and pairs of them, over the storage types of kernels/core. Arithmetic
// is float's, rounded once.
#pragma once

#include <cstdint>

#include "emulated/vector_types.h"

namespace polystrate::emulator {

template <typename Storage>
class SmallFloat {
 public:
  using StorageType = Storage;

  SmallFloat() = default;  // not initialised, so that it may be shared memory
  SmallFloat(float x) : bits_(Storage::FromFloat(x).bits) {}  // NOLINT: implicit as CUDA's
  static SmallFloat FromBits(uint16_t bits) {
    SmallFloat x;
    x.bits_ = bits;
    return x;
  }

  operator float() const { return Storage{bits_}.ToFloat(); }  // NOLINT: implicit as CUDA's
  uint16_t bits() const { return bits_; }

 private:
  uint16_t bits_;
};

template <typename T>
struct alignas(4) SmallFloat2 {
  T x, y;
};

template <typename T>
float2 ToFloats(const SmallFloat2<T>& v) {
  return {static_cast<float>(v.x), static_cast<float>(v.y)};
}

}  // namespace polystrate::emulator
