// The emulator itself: what kernels rely on holds, and what they may not do is found.
#include <cmath>

#include "tests/cuda_emulator/emulated_device.h"

namespace polystrate::cuda {
namespace {

constexpr uint32_t kAll = 0xffffffffu;

using BlockTest = EmulatorTest;
using BlockDeathTest = EmulatorTest;

__global__ void Indices(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  atomicAdd(out + block * blockDim.x * blockDim.y * blockDim.z + thread, 1);
}

TEST_F(BlockTest, EveryThreadRunsOnce) {
  const Shown<int> out(3 * 2 * 4 * 5 * 3 * 2);
  Launch(context(), Indices, dim3(3, 2, 4), dim3(5, 3, 2), 0, out.data());
  for (int64_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], 1) << i;
}

__global__ void Shuffles(int* out, int width) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(kAll, 100 + lane, lane / 2 + 3, width);
  out[32 + lane] = __shfl_up_sync(kAll, 100 + lane, 3, width);
  out[64 + lane] = __shfl_down_sync(kAll, 100 + lane, 3, width);
  out[96 + lane] = __shfl_xor_sync(kAll, 100 + lane, 5, width);
}

TEST_F(BlockTest, ShufflesKeepToTheirSegments) {
  for (int width : {32, 16, 8}) {
    const Shown<int> out(128);
    Launch(context(), Shuffles, 1, 32, 0, out.data(), width);
    for (int lane = 0; lane < 32; ++lane) {
      const int begin = lane / width * width;
      EXPECT_EQ(out[lane], 100 + begin + (lane / 2 + 3) % width);
      EXPECT_EQ(out[32 + lane], 100 + (lane - 3 < begin ? lane : lane - 3));
      EXPECT_EQ(out[64 + lane], 100 + (lane + 3 >= begin + width ? lane : lane + 3));
      EXPECT_EQ(out[96 + lane], 100 + (lane ^ 5));
    }
  }
}

__global__ void Votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned ballot = __ballot_sync(kAll, lane % 3 == 0);
  const int any = __any_sync(kAll, lane == 31), all = __all_sync(kAll, lane < 31);
  const unsigned sum = __reduce_add_sync(kAll, lane), top = __reduce_max_sync(kAll, lane ^ 1u);
  const unsigned same = __match_any_sync(kAll, static_cast<int>(lane % 16));
  const int count = __syncthreads_count(lane < 5);
  if (lane != 7) return;
  out[0] = ballot;
  out[1] = static_cast<unsigned>(any);
  out[2] = static_cast<unsigned>(all);
  out[3] = sum;
  out[4] = top;
  out[5] = same;
  out[6] = static_cast<unsigned>(count);
}

TEST_F(BlockTest, VotesAndReductions) {
  const Shown<unsigned> out(7);
  Launch(context(), Votes, 1, 32, 0, out.data());
  EXPECT_EQ(out[0], 0x49249249u);
  EXPECT_EQ(out[1], 1u);
  EXPECT_EQ(out[2], 0u);
  EXPECT_EQ(out[3], 31u * 16u);
  EXPECT_EQ(out[4], 31u);
  EXPECT_EQ(out[5], 1u << 7 | 1u << 23);
  EXPECT_EQ(out[6], 5u);
}

// A sum over a block through both kinds of shared memory; thread 0 tells whether it was poison.
template <typename T>
__global__ void BlockSum(const T* in, T* sums, int* num_poisoned) {
  __shared__ T warp_sums[32];
  T* values = reinterpret_cast<T*>(DynamicShared());
  if (threadIdx.x == 0) {
    for (int i = 0; i < 32; ++i) *num_poisoned += std::isnan(warp_sums[i]) ? 1 : 0;
    for (unsigned i = 0; i < blockDim.x; ++i) *num_poisoned += std::isnan(values[i]) ? 1 : 0;
  }
  __syncthreads();
  values[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  T sum = values[blockDim.x - 1 - threadIdx.x];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += warp_sums[w];
  sums[blockIdx.x] = sum;
}

template <typename T>
void CheckBlockSum(const CudaContext& context, int num_blocks, int num_threads) {
  const Shown<T> in(num_blocks * num_threads), sums(num_blocks);
  const Shown<int> num_poisoned(1);
  for (int64_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(i);
  Launch(context, BlockSum<T>, num_blocks, num_threads, num_threads * int64_t{sizeof(T)}, in.data(),
         sums.data(), num_poisoned.data());
  for (int b = 0; b < num_blocks; ++b) {
    EXPECT_EQ(sums[b], static_cast<T>(num_threads) * (b * num_threads + (num_threads - 1) / T{2}));
  }
  EXPECT_EQ(num_poisoned[0], num_blocks * (32 + num_threads));
}

TEST_F(BlockTest, SharedMemoryIsPoisonThenShared) {
  CheckBlockSum<float>(context(), 3, 256);
  CheckBlockSum<double>(context(), 2, 1024);
}

// Without the barrier that is missing here, some of the threads read what is not there yet: in one
// block because they come before the writers, in the next because they come behind.
__global__ void MissingBarrier(float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = 1.0f;
  out[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
}

TEST_F(BlockTest, AMissingBarrierShows) {
  const Shown<float> out(128);
  Launch(context(), MissingBarrier, 2, 64, 0, out.data());
  EXPECT_TRUE(std::isnan(out[0]) && !std::isnan(out[63]));
  EXPECT_TRUE(!std::isnan(out[64]) && std::isnan(out[127]));
}

__global__ void SomeReturnEarly(float* out) {
  if (threadIdx.x % 2 == 1) return;
  out[threadIdx.x] = __shfl_down_sync(kAll, 1.0f, threadIdx.x % 4 == 0 ? 1 : 2);
}

TEST_F(BlockTest, LanesThatReturnedGivePoison) {
  const Shown<float> out(32);
  Launch(context(), SomeReturnEarly, 1, 32, 0, out.data());
  for (int i = 0; i < 32; i += 4) EXPECT_TRUE(std::isnan(out[i]));
  for (int i = 2; i < 32; i += 4) EXPECT_EQ(out[i], 1.0f);
}

__global__ void OneReturns() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
__global__ void TwoBarriers() {
  if (threadIdx.x < 40) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void NotInTheMask() { __shfl_sync(0xffu, 1, 0); }
__global__ void TwoMasks() { __shfl_sync(threadIdx.x < 3 ? kAll : kAll - 1u, 1, 0); }
__global__ void WarpAgainstBlock() {
  if (threadIdx.x < 3) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

TEST_F(BlockDeathTest, DivergenceIsTold) {
  EXPECT_DEATH(Launch(context(), OneReturns, 1, 64, 0), "OneReturns.*__syncthreads.*returned");
  EXPECT_DEATH(Launch(context(), TwoBarriers, 1, 64, 0), "TwoBarriers.*waits at");
  EXPECT_DEATH(Launch(context(), NotInTheMask, 1, 32, 0), "thread .8, 0, 0.*not in");
  EXPECT_DEATH(Launch(context(), TwoMasks, 1, 32, 0), "while lane");
  EXPECT_DEATH(Launch(context(), WarpAgainstBlock, 1, 32, 0), "cannot go on");
}

__global__ void SomeWait() {
  if (threadIdx.x % 2 == 0) WaitForKernelBefore();
}

TEST_F(BlockDeathTest, EarlyKernelsThatDoNotWaitAreTold) {
  Launch(context(), SomeWait, 1, 2, 0);
  LaunchEarly(context(), SomeWait, 1, 1, 0);
  EXPECT_DEATH(LaunchEarly(context(), SomeWait, 1, 2, 0), "thread .1, 0, 0.*WaitForKernelBefore");
}

__global__ void WriteDynamic(int at) { DynamicShared()[at] = 1; }

TEST_F(BlockDeathTest, WritesBehindSharedMemoryAreTold) {
  Launch(context(), WriteDynamic, 1, 1, 100, 99);
  EXPECT_DEATH(Launch(context(), WriteDynamic, 1, 1, 100, 100), "behind its dynamic");
  EXPECT_DEATH(Launch(context(), WriteDynamic, 1, 1, 100, 128), "");
}

__global__ void Copies(const float* from, float* seen) {
  float* shared = reinterpret_cast<float*>(DynamicShared());
  const unsigned t = threadIdx.x;
  CopyAsync16(shared + 4 * t, from + 4 * t);
  CommitCopies();
  CopyAsync16(shared + 128 + 4 * t, from + 128 + 4 * t, t != 5);
  CommitCopies();
  seen[t] = shared[4 * t];
  WaitCopies<1>();
  seen[32 + t] = shared[4 * t];
  seen[64 + t] = shared[128 + 4 * t];
  WaitCopies<0>();
  seen[96 + t] = shared[128 + 4 * t];
}

TEST_F(BlockTest, CopiesArriveWhenTheyAreWaitedFor) {
  const Shown<float> from(256), seen(128);
  for (int64_t i = 0; i < from.size(); ++i) from[i] = static_cast<float>(i);
  Launch(context(), Copies, 1, 32, 1024, from.data(), seen.data());
  for (int64_t t = 0; t < 32; ++t) {
    EXPECT_TRUE(std::isnan(seen[t]) && std::isnan(seen[64 + t]));
    EXPECT_EQ(seen[32 + t], from[4 * t]);
    EXPECT_EQ(seen[96 + t], t == 5 ? 0.0f : from[128 + 4 * t]);
  }
}

// out = a b, [16, 16] times [16, 16], through ldmatrix and two mma.
template <typename T>
__global__ void MatrixProduct(const T* a, const T* b, float* out) {
  __shared__ __align__(16) T tiles[2][16][16];
  for (unsigned i = threadIdx.x; i < 256; i += 32) {
    tiles[0][i / 16][i % 16] = a[i];
    tiles[1][i / 16][i % 16] = b[i];
  }
  __syncwarp();
  const unsigned lane = threadIdx.x, group = lane / 4, member = lane % 4;
  uint32_t fa[4], fb[4];
  LoadMatrix4(fa, &tiles[0][lane % 16][lane / 16 * 8]);
  LoadMatrix4Transposed(fb, &tiles[1][lane % 16][lane / 16 * 8]);
  for (unsigned n = 0; n < 2; ++n) {
    float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
    const uint32_t pair[2] = {fb[2 * n], fb[2 * n + 1]};
    Mma16816<T>(d, fa, pair);
    for (unsigned i = 0; i < 4; ++i) {
      out[(group + i / 2 * 8) * 16 + 8 * n + 2 * member + i % 2] = d[i];
    }
  }
}

template <typename T>
void CheckMatrixProduct(const CudaContext& context) {
  const Shown<T> a(256), b(256);
  const Shown<float> out(256);
  for (int i = 0; i < 256; ++i) {  // small integers: every sum is exact
    a[i] = T(static_cast<float>(i * 7 % 13 - 6));
    b[i] = T(static_cast<float>(i * 5 % 11 - 5));
  }
  Launch(context, MatrixProduct<T>, 1, 32, 0, a.data(), b.data(), out.data());
  for (int i = 0; i < 256; ++i) {
    float sum = 1.0f;
    for (int k = 0; k < 16; ++k) {
      sum += static_cast<float>(a[i / 16 * 16 + k]) * static_cast<float>(b[16 * k + i % 16]);
    }
    ASSERT_EQ(out[i], sum) << i;
  }
}

TEST_F(BlockTest, MatrixInstructionsHaveTheManualsLayout) {
  CheckMatrixProduct<__nv_bfloat16>(context());
  CheckMatrixProduct<__half>(context());
}

}  // namespace
}  // namespace polystrate::cuda
