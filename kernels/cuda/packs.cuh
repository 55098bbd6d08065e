// Packs: kPack neighbouring elements of a row that one thread reads or writes in one access. A
// kernel that has them is compiled a second time for packs of one, for rows that are not aligned to
// more.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/core/tensor.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/types.cuh"

namespace polystrate::cuda {

inline constexpr int kAccessBytes = 16;  // the widest access of a thread

// The words in which a pack is moved, each one access. Of one element: 2 or 4 bytes.
template <int kBytes>
struct PackWords {
  using Word = std::conditional_t<
      kBytes % kAccessBytes == 0, uint4,
      std::conditional_t<kBytes == 8, uint2, std::conditional_t<kBytes == 4, uint32_t, uint16_t>>>;
  static constexpr int kCount = kBytes / static_cast<int>(sizeof(Word));
  Word words[kCount];

  __device__ __forceinline__ void Load(const void* from) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) words[i] = static_cast<const Word*>(from)[i];
  }
  __device__ __forceinline__ void Store(void* to) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (sizeof(Word) >= 8) {
        StoreGlobal(static_cast<Word*>(to) + i, words[i]);
      } else {
        static_cast<Word*>(to)[i] = words[i];
      }
    }
  }
};
template <typename T, int kPack>
using PackOf = PackWords<static_cast<int>(sizeof(T)) * kPack>;

template <typename T, int kPack>
__device__ __forceinline__ void LoadPack(const T* from, float (&values)[kPack]) {
  PackOf<T, kPack> pack;
  pack.Load(from);
  T elements[kPack];
  memcpy(elements, pack.words, sizeof(elements));
#pragma unroll
  for (int i = 0; i < kPack; ++i) values[i] = ToFloat(elements[i]);
}

template <typename T, int kPack>
__device__ __forceinline__ void StorePack(const float (&values)[kPack], T* to) {
  T elements[kPack];
#pragma unroll
  for (int i = 0; i < kPack; ++i) elements[i] = FromFloat<T>(values[i]);
  PackOf<T, kPack> pack;
  memcpy(pack.words, elements, sizeof(elements));
  pack.Store(to);
}

// Whether packs may begin where x does (a vector), or every row of it and every `columns` elements
// in a row (a matrix).
inline bool PacksAligned(const Tensor& x, int64_t columns, int pack) {
  if (reinterpret_cast<uintptr_t>(x.raw()) % (pack * SizeOf(x.dtype())) != 0) return false;
  return x.rank() == 1 || (columns % pack == 0 && (x.dim(0) <= 1 || x.row_stride() % pack == 0));
}

}  // namespace polystrate::cuda
