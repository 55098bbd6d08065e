// What kernels need beyond plain CUDA C++: dynamic shared memory, and instructions that have no
// name in it; warpgroup.cuh has those of compute capability 9.0 alone. Nothing else in cuda/ may
// use inline assembly or `extern __shared__`: the tests have versions of these functions that run
// on the CPU.
//
// A fragment is what one lane of a warp holds of a matrix; the layouts are those of the PTX manual,
// "Matrix fragments for mma.m16n8k16": lane = 4 * group + member.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace polystrate::cuda {

// The thread block's dynamic shared memory, aligned to 128.
__device__ __forceinline__ unsigned char* DynamicShared() {
  extern __shared__ __align__(128) unsigned char dynamic_shared[];
  return dynamic_shared;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// d += a b.  a: 16 x 16, 4 registers of two T; b: 16 x 8, 2 registers of two T; d: 16 x 8 float.
template <typename T>
__device__ __forceinline__ void Mma16816(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void Mma16816<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
__device__ __forceinline__ void Mma16816<__half>(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lanes 8 i .. 8 i + 7 give the
// addresses of the rows (16 bytes, aligned so) of matrix i, and out[i] gets this lane's two
// elements of it.
__device__ __forceinline__ void LoadMatrix4(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}
// The same, each matrix transposed.
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// Copies 16 bytes (both addresses aligned so) from global to shared memory without waiting; zeros
// instead when !valid, and `from` is then not read.
__device__ __forceinline__ void CopyAsync16(void* to, const void* from, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(SharedAddress(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// Makes one group of the copies since the last Commit.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 16 bytes that are read once: past the first-level cache, first to leave the second.
__device__ __forceinline__ uint4 LoadStreaming(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}
// The same; zeros when !valid, and `from` is then not read. Stays in front of a WaitForKernelBefore
// that comes later, as loads marked "nc" do not.
__device__ __forceinline__ uint4 LoadStreaming(const void* from, bool valid) {
  uint4 v = {0, 0, 0, 0};
  asm volatile(
      "{\n"
      ".reg .pred valid;\n"
      "setp.ne.u32 valid, %5, 0;\n"
      "@valid ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(from), "r"(static_cast<uint32_t>(valid)));
  return v;
}

// Kernels that overlap (LaunchEarly in launch.cuh; nothing before compute capability 9.0). The
// first: a kernel behind this one may start once all thread blocks of this one have come here or
// ended, where there is room. The second: until all kernels in front of this one have ended, and
// what they wrote can be read.
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void WaitForKernelBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// To global memory in one access. As an assignment the compiler is free to take it apart, and does,
// as soon as the value was put together from its parts.
__device__ __forceinline__ void StoreGlobal(uint4* to, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void StoreGlobal(uint2* to, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" : : "l"(to), "r"(v.x), "r"(v.y) : "memory");
}

// To shared memory, where a product of warpgroups will read it (warpgroup.cuh).
__device__ __forceinline__ void StoreShared(void* to, uint4 v) { *static_cast<uint4*>(to) = v; }

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace polystrate::cuda
