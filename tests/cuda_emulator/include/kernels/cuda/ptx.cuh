// Stand-in for kernels/cuda/ptx.cuh: the same functions, run on the CPU. Keep the two in step.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/matrix.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::cuda {

inline unsigned char* DynamicShared() { return emulator::DynamicSharedMemory(); }

inline uint32_t SharedAddress(const void* pointer) { return emulator::SharedAddress(pointer); }

template <typename T>
void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const std::source_location& at = std::source_location::current()) {
  emulator::Mma16816<typename T::StorageType>(d, a, b, at);
}

inline void LoadMatrix4(uint32_t (&out)[4], const void* row,
                        const std::source_location& at = std::source_location::current()) {
  emulator::LoadMatrix4(out, row, false, at);
}
inline void LoadMatrix4Transposed(
    uint32_t (&out)[4], const void* row,
    const std::source_location& at = std::source_location::current()) {
  emulator::LoadMatrix4(out, row, true, at);
}

inline void CopyAsync16(void* to, const void* from, bool valid = true) {
  emulator::CopyAsync(to, valid ? from : nullptr);
}
inline void CommitCopies() { emulator::CommitCopies(); }
template <int kPending>
void WaitCopies() {
  emulator::WaitCopies(kPending);
}

inline uint4 LoadStreaming(const void* from) { return *static_cast<const uint4*>(from); }
inline uint4 LoadStreaming(const void* from, bool valid) {
  return valid ? LoadStreaming(from) : uint4{0, 0, 0, 0};
}

// Kernels run one after the other.
inline void LetNextKernelStart() {}
inline void WaitForKernelBefore() { emulator::WaitForKernelBefore(); }

inline void StoreGlobal(uint4* to, uint4 v) { *to = v; }
inline void StoreGlobal(uint2* to, uint2 v) { *to = v; }

inline void StoreShared(void* to, uint4 v) {
  *static_cast<uint4*>(to) = v;
  emulator::RecordWrite(to);
}

// Subnormal results are zero, as the instruction's are.
inline float Exp2(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace polystrate::cuda
