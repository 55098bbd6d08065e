// The instructions that a warp does on matrices together: ldmatrix and mma.
#pragma once

#include <cstdint>
#include <source_location>

#include "kernels/core/dtype.h"

namespace polystrate::emulator {

// mma.m16n8k16, as kernels/cuda/ptx.cuh says, of BFloat16 or Float16. The sum over k is float32, in
// the order of k.
template <typename Storage>
void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const std::source_location& at);

// ldmatrix.x4, with .trans where `transposed`. Ends the program where a row is not shared memory or
// not aligned to 16.
void LoadMatrix4(uint32_t (&out)[4], const void* row, bool transposed,
                 const std::source_location& at);

}  // namespace polystrate::emulator
