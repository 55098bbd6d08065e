#include "tests/cuda_emulator/matrix.h"

#include <cstring>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::emulator {
namespace {

constexpr int kM = 16, kN = 8, kK = 16;

void RequireAllLanes(void* const* data) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (data[lane] == nullptr)
      KernelFault("a matrix instruction without lane " + std::to_string(lane));
  }
}

struct MmaLane {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// Element `half` of a register.
uint16_t Half(uint32_t word, int half) { return static_cast<uint16_t>(word >> (16 * half)); }

template <typename Storage, int kRows, int kColumns>
void Convert(const uint16_t (&bits)[kRows][kColumns], float (&values)[kRows][kColumns]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) values[i][j] = Storage{bits[i][j]}.ToFloat();
  }
}

template <typename Storage>
void Multiply(void* const* data) {
  RequireAllLanes(data);
  uint16_t a_bits[kM][kK], b_bits[kK][kN];
  float a[kM][kK], b[kK][kN], d[kM][kN];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* mine = static_cast<const MmaLane*>(data[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int half = 0; half < 2; ++half) {
      const int column = 2 * member + half;
      for (int r = 0; r < 4; ++r) {
        a_bits[group + 8 * (r % 2)][column + 8 * (r / 2)] = Half(mine->a[r], half);
      }
      for (int r = 0; r < 2; ++r) b_bits[column + 8 * r][group] = Half(mine->b[r], half);
      for (int r = 0; r < 2; ++r) d[group + 8 * r][column] = mine->d[2 * r + half];
    }
  }
  Convert<Storage>(a_bits, a);
  Convert<Storage>(b_bits, b);
  for (int i = 0; i < kM; ++i) {
    for (int k = 0; k < kK; ++k) {
      for (int j = 0; j < kN; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* mine = static_cast<const MmaLane*>(data[lane]);
    for (int r = 0; r < 4; ++r) mine->d[r] = d[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2];
  }
}

struct LoadLane {
  uint32_t* out;
  const uint16_t* row;
};

template <bool kTransposed>
void Load(void* const* data) {
  RequireAllLanes(data);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint32_t word = 0;
      for (int half = 0; half < 2; ++half) {
        int row = lane / 4, column = 2 * (lane % 4) + half;
        if (kTransposed) std::swap(row, column);
        const auto* from = static_cast<const LoadLane*>(data[8 * matrix + row]);
        word |= static_cast<uint32_t>(from->row[column]) << (16 * half);
      }
      static_cast<const LoadLane*>(data[lane])->out[matrix] = word;
    }
  }
}

}  // namespace

template <typename Storage>
void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const std::source_location& at) {
  MmaLane mine = {d, a, b};
  MeetWarp(~0u, &mine, Multiply<Storage>, at);
}
template void Mma16816<BFloat16>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2],
                                 const std::source_location&);
template void Mma16816<Float16>(float (&)[4], const uint32_t (&)[4], const uint32_t (&)[2],
                                const std::source_location&);

void LoadMatrix4(uint32_t (&out)[4], const void* row, bool transposed,
                 const std::source_location& at) {
  constexpr size_t kRowBytes = 16;
  if (reinterpret_cast<uintptr_t>(row) % kRowBytes != 0) {
    KernelFault("ldmatrix of a row that is not aligned to 16");
  }
  if (!InSharedMemory(row, kRowBytes)) KernelFault("ldmatrix of what is not shared memory");
  LoadLane mine = {out, static_cast<const uint16_t*>(row)};
  MeetWarp(~0u, &mine, transposed ? Load<true> : Load<false>, at);
}

}  // namespace polystrate::emulator
