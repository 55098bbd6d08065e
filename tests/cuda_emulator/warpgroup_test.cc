// Products of warpgroups: the emulator reads descriptors by the manual, operand_tile.cuh makes
// them, and what a kernel may not do with them is found.
#include "kernels/cuda/warpgroup.cuh"

#include "kernels/cuda/operand_tile.cuh"
#include "tests/cuda_emulator/emulated_device.h"

namespace polystrate::cuda {
namespace {

using WarpgroupTest = EmulatorTest;
using WarpgroupDeathTest = EmulatorTest;

constexpr int kRows = 64, kSize = 128;  // of a; of b, either way
using TileA = OperandTile<kRows, kSize>;
using TileB = OperandTile<kSize, kSize>;
constexpr int64_t kSharedBytes = TileA::kBytes + TileB::kBytes + TileA::kAlignment;

enum class Mistake {
  kNone,
  kNoFence,
  kFenceAfterArriving,
  kNoStart,
  kSumsTouched,
  kLeftSideTouched,
  kOverwritten,
  kNoWait,
  kReservedBits,
  kNoBarrier,
  kNobodyArrives,
};

template <typename T, int kColumns>
__device__ void Store(const T* from, int row, int column, unsigned char* tile, int offset) {
  StoreShared(tile + offset, *reinterpret_cast<const uint4*>(from + row * kColumns + column));
}

// Sums [64, 128] of a b', with b in shared memory by rows or by columns and a there or, where b is
// by rows, in registers. One warpgroup.
template <typename T>
__global__ void Multiply(const T* a, const T* b, bool by_rows, Mistake mistake, float* out) {
  __shared__ uint64_t barrier;
  unsigned char* tile_a = DynamicShared();
  tile_a += (TileA::kAlignment - SharedAddress(tile_a) % TileA::kAlignment) % TileA::kAlignment;
  unsigned char* tile_b = tile_a + TileA::kBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (thread == 0 && mistake != Mistake::kNoBarrier) InitBarrier(&barrier, 128);
  __syncthreads();
  for (int i = thread; i < kRows * kSize / 8; i += 128) {
    const int row = i / (kSize / 8), column = i % (kSize / 8) * 8;
    Store<T, kSize>(a, row, column, tile_a, TileA::PieceOffset(row, column));
  }
  for (int i = thread; i < kSize * kSize / 8; i += 128) {
    const int row = i / (kSize / 8), column = i % (kSize / 8) * 8;
    Store<T, kSize>(b, row, column, tile_b, TileB::PieceOffset(row, column));
  }
  if (mistake != Mistake::kNoFence && mistake != Mistake::kFenceAfterArriving) FenceProducts();
  if (mistake != Mistake::kNobodyArrives) Arrive(&barrier);
  if (mistake == Mistake::kFenceAfterArriving) FenceProducts();
  AwaitPhase(&barrier, 0);

  float sums[kSize / 8][4];
  for (auto& tile : sums) {
    for (float& sum : tile) sum = 1.0f;
  }
  uint32_t left[kSize / 16][4];
  const int row = thread / 32 * 16 + lane / 4;
  for (int k = 0; k < kSize / 16; ++k) {
    for (int r = 0; r < 4; ++r) {
      const T* pair = a + (row + r % 2 * 8) * kSize + k * 16 + lane % 4 * 2 + r / 2 * 8;
      left[k][r] = *reinterpret_cast<const uint32_t*>(pair);
    }
  }
  if (mistake != Mistake::kNoStart) StartProducts();
  const uint64_t desc_a = TileA::AlongColumns(SharedAddress(tile_a), 0);
  for (int k = 0; k < kSize; k += 16) {
    if (by_rows) {
      MultiplyRegisters<T>(sums, left[k / 16],
                           TileB::AlongRows(SharedAddress(tile_b)) + TileB::AddRows(k));
    } else {
      uint64_t desc_b = TileB::AlongColumns(SharedAddress(tile_b), 0) + TileB::AddColumns(k);
      if (mistake == Mistake::kReservedBits) desc_b |= uint64_t{1} << 53;
      MultiplyShared<T>(sums, desc_a + TileA::AddColumns(k), desc_b, k > 0);
    }
  }
  CommitProducts();
  if (mistake == Mistake::kSumsTouched) sums[3][2] = 5.0f;
  if (mistake == Mistake::kLeftSideTouched) left[1][1] ^= 1;
  if (mistake == Mistake::kNoWait) return;
  if (mistake == Mistake::kOverwritten && thread == 0) *reinterpret_cast<T*>(tile_b) = T(9.0f);
  WaitProducts<0>();
  for (int n = 0; n < kSize / 8; ++n) {
    for (int i = 0; i < 4; ++i) {
      out[(row + i / 2 * 8) * kSize + n * 8 + lane % 4 * 2 + i % 2] = sums[n][i];
    }
  }
}

template <typename T>
struct Problem {
  Shown<T> a{kRows * kSize}, b{kSize * kSize};
  Shown<float> out{kRows * kSize};

  Problem() {
    for (int64_t i = 0; i < a.size(); ++i) a[i] = T(static_cast<float>(i * 7 % 13 - 6));
    for (int64_t i = 0; i < b.size(); ++i) b[i] = T(static_cast<float>(i * 5 % 11 - 5));
  }
  void Run(const CudaContext& context, bool by_rows, Mistake mistake) const {
    Launch(context, Multiply<T>, 1, 128, kSharedBytes, a.data(), b.data(), by_rows, mistake,
           out.data());
  }
  // Small integers: exact.
  float Expected(int row, int column, bool by_rows) const {
    float sum = by_rows ? 1.0f : 0.0f;  // the first product of the others does not add
    for (int k = 0; k < kSize; ++k) {
      const float right = by_rows ? b[k * kSize + column] : b[column * kSize + k];
      sum += static_cast<float>(a[row * kSize + k]) * right;
    }
    return sum;
  }
  int NumWrong(bool by_rows) const {
    int num_wrong = 0;
    for (int i = 0; i < kRows * kSize; ++i) {
      num_wrong += out[i] != Expected(i / kSize, i % kSize, by_rows) ? 1 : 0;
    }
    return num_wrong;
  }
};

template <typename T>
void CheckProducts(const CudaContext& context) {
  for (const bool by_rows : {false, true}) {
    const Problem<T> problem;
    problem.Run(context, by_rows, Mistake::kNone);
    EXPECT_EQ(problem.NumWrong(by_rows), 0) << by_rows;
  }
}

TEST_F(WarpgroupTest, DescriptorsMeanWhatTheManualSays) {
  CheckProducts<__nv_bfloat16>(context());
  CheckProducts<__half>(context());
}

// An element of b changes while products run: the column that reads it shows it.
TEST_F(WarpgroupTest, SharedMemoryIsReadLate) {
  const Problem<__half> problem;
  problem.Run(context(), false, Mistake::kOverwritten);
  EXPECT_GT(problem.NumWrong(false), 0);
}

TEST_F(WarpgroupDeathTest, MistakesAreTold) {
  const Problem<__half> p;
  EXPECT_DEATH(p.Run(context(), false, Mistake::kNoFence), "Multiply.*without a fence");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kFenceAfterArriving), "without a fence");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kNoStart), "without wgmma.fence");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kSumsTouched), "sums' registers have changed");
  EXPECT_DEATH(p.Run(context(), true, Mistake::kLeftSideTouched), "left side's registers");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kNoWait), "before it has waited");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kReservedBits), "reserved bits");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kNoBarrier), "nobody has initialised");
  EXPECT_DEATH(p.Run(context(), false, Mistake::kNobodyArrives), "cannot go on");
}

}  // namespace
}  // namespace polystrate::cuda
