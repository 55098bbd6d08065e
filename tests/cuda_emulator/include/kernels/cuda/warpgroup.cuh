// Stand-in for kernels/cuda/warpgroup.cuh: the same functions, run on the CPU. Keep the two in
// step.
#pragma once

#include <cstdint>

#include "emulated/warp_functions.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/phases.h"
#include "tests/cuda_emulator/warpgroup.h"

namespace polystrate::cuda {

inline void InitBarrier(uint64_t* barrier, int count) { emulator::InitBarrier(barrier, count); }
inline void Arrive(uint64_t* barrier) { emulator::Arrive(barrier); }
inline void AwaitPhase(uint64_t* barrier, uint32_t parity,
                       const std::source_location& at = std::source_location::current()) {
  emulator::AwaitPhase(barrier, parity, at);
  __syncwarp(0xffffffffu, at);
}

inline void FenceProducts() { emulator::FenceProducts(); }

template <int kRegisters>
void GiveUpRegisters() {
  emulator::SetRegisters(kRegisters);
}
template <int kRegisters>
void TakeRegisters() {
  emulator::SetRegisters(kRegisters);
}

inline void StartProducts() { emulator::StartProducts(); }
inline void CommitProducts() { emulator::CommitProducts(); }
template <int kPending>
void WaitProducts(const std::source_location& at = std::source_location::current()) {
  emulator::WaitProducts(kPending, at);
}
template <typename T, int kTiles>
void Settle(T (&)[kTiles][4]) {}

template <typename T>
float BitsToFloat(uint16_t bits) {
  return typename T::StorageType{bits}.ToFloat();
}
template <typename T, int kTiles>
void MultiplyShared(float (&sums)[kTiles][4], uint64_t a, uint64_t b, bool add) {
  emulator::Multiply({&sums[0][0], kTiles, nullptr, a, b, false, add, BitsToFloat<T>});
}
template <typename T, int kTiles>
void MultiplyRegisters(float (&sums)[kTiles][4], const uint32_t (&a)[4], uint64_t b) {
  emulator::Multiply({&sums[0][0], kTiles, a, 0, b, true, true, BitsToFloat<T>});
}

}  // namespace polystrate::cuda
