// Instructions that only GPUs of compute capability 9.0 have (code for "sm_90a"): products of a
// warpgroup, which is 4 warps, the first at a multiple of 4, and what goes with them. What holds
// for ptx.cuh holds here: the tests have versions that run on the CPU. Names and rules are those of
// the PTX manual, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate" and "mbarrier".
//
// A product runs behind the threads' backs. Between the call that starts it and the WaitProducts
// that it has ended by, nobody may touch its registers, neither the sum's nor the left side's, and
// its shared memory must stay. What ordinary instructions, cp.async among them, have written to
// shared memory it sees once the thread that wrote has called FenceProducts.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace polystrate::cuda {

// A barrier in shared memory, an "mbarrier": phase after phase, each of which ends when `count`
// threads have arrived. The next begins at once. Others may use it behind a __syncthreads.
__device__ __forceinline__ void InitBarrier(uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(SharedAddress(barrier)), "r"(count)
               : "memory");
}
__device__ __forceinline__ void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
               :
               : "r"(SharedAddress(barrier))
               : "memory");
}
// Until the phase of this parity has ended; the first phase is 0, and the one before it, 1, counts
// as ended. What the threads that arrived wrote before can then be read. Lanes go on together.
__device__ __forceinline__ void AwaitPhase(uint64_t* barrier, uint32_t parity) {
  uint32_t ended = 0;
  while (ended == 0) {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n"
        "}"
        : "=r"(ended)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
  __syncwarp();
}

// See above: between writing and arriving.
__device__ __forceinline__ void FenceProducts() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// How many registers a thread of this warpgroup has from here on. It waits until they are to be
// had; what others give up is. The kernel's __launch_bounds__ must tell how many there are.
template <int kRegisters>
__device__ __forceinline__ void GiveUpRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(kRegisters));
}

// Before products whose registers anything but a product has written: from here on they are theirs.
__device__ __forceinline__ void StartProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Makes one group of the products since the last Commit.
__device__ __forceinline__ void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending groups are under way. Settle, right behind it, keeps the compiler from
// using the registers of those that have ended any earlier: sums, and left sides.
template <int kPending>
__device__ __forceinline__ void WaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(kPending) : "memory");
}
template <int kTiles>
__device__ __forceinline__ void Settle(float (&sums)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sums[n][i]));
  }
}
template <int kSteps>
__device__ __forceinline__ void Settle(uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[k][i]));
  }
}

// sums (+)= a b: 64 x 8 kTiles of float, of which a warp has 16 rows, lane 4 g + m in sums[n][i]
// the element at row g + 8 (i / 2), column 8 n + 2 m + i % 2.
//
// a: 64 x 16 T, b: 16 x 8 kTiles T in shared memory, both with the 16 contiguous; descriptors as
// operand_tile.cuh makes them. Adds to the sums when `add`.
template <typename T, int kTiles>
__device__ __forceinline__ void MultiplyShared(float (&sums)[kTiles][4], uint64_t a, uint64_t b,
                                               bool add);
// The same, added always, but a is in registers, laid out as mma.m16n8k16's is, and b has the 8
// kTiles contiguous.
template <typename T, int kTiles>
__device__ __forceinline__ void MultiplyRegisters(float (&sums)[kTiles][4], const uint32_t (&a)[4],
                                                  uint64_t b);

// Of a lane, four sums of each tile: their places in the text of an instruction, and what they are.
#define SUMS_8                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, " \
  "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SUMS_16                                                                      \
  SUMS_8                                                                             \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TILE(n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
#define TILES_4(n) TILE(n), TILE(n + 1), TILE(n + 2), TILE(n + 3)
#define TILES_8 TILES_4(0), TILES_4(4)
#define TILES_16 TILES_8, TILES_4(8), TILES_4(12)
// In the text, places behind the sums': a, b and, for MultiplyShared, add.
#define MULTIPLY_SHARED(T, name, tiles, columns, a_at, b_at, add_at)                           \
  template <>                                                                                  \
  __device__ __forceinline__ void MultiplyShared<T, tiles>(float(&sums)[tiles][4], uint64_t a, \
                                                           uint64_t b, bool add) {             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, " add_at                                    \
                 ", 0;\n"                                                                      \
                 "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." name "." name          \
                 " {" SUMS_##tiles "}, " a_at ", " b_at ", p, 1, 1, 0, 0;\n}"                  \
                 : TILES_##tiles                                                               \
                 : "l"(a), "l"(b), "r"(static_cast<uint32_t>(add))                             \
                 : "memory");                                                                  \
  }
#define MULTIPLY_REGISTERS(T, name, tiles, columns, a_at, b_at)                                    \
  template <>                                                                                      \
  __device__ __forceinline__ void MultiplyRegisters<T, tiles>(float(&sums)[tiles][4],              \
                                                              const uint32_t(&a)[4], uint64_t b) { \
    asm volatile(                                                                                  \
        "{\n.reg .pred p;\nsetp.ne.u32 p, 1, 0;\n"                                                 \
        "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." name "." name " {" SUMS_##tiles     \
        "}, {" a_at "}, " b_at ", p, 1, 1, 1;\n}"                                                  \
        : TILES_##tiles                                                                            \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)                                       \
        : "memory");                                                                               \
  }
#define MULTIPLY(T, name)                                           \
  MULTIPLY_SHARED(T, name, 16, "128", "%64", "%65", "%66")          \
  MULTIPLY_REGISTERS(T, name, 8, "64", "%32, %33, %34, %35", "%36") \
  MULTIPLY_REGISTERS(T, name, 16, "128", "%64, %65, %66, %67", "%68")
MULTIPLY(__nv_bfloat16, "bf16")
MULTIPLY(__half, "f16")
#undef MULTIPLY
#undef MULTIPLY_REGISTERS
#undef MULTIPLY_SHARED
#undef TILES_16
#undef TILES_8
#undef TILES_4
#undef TILE
#undef SUMS_16
#undef SUMS_8

}  // namespace polystrate::cuda
