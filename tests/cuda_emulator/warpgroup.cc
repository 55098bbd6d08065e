#include "tests/cuda_emulator/warpgroup.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::emulator {
namespace {

constexpr int kK = 16, kWarpRows = 16, kMaxN = 256;
constexpr int kPiece = 8;  // elements of 16 bytes
constexpr int kWarpsOfGroup = 4;

struct Started {
  Product product;
  uint32_t a_registers[4];  // as they were
};

// Sums that products under way add to: what they were, or have become.
struct Sums {
  float* registers;
  std::vector<float> values;
  int num_products;
};

struct ThreadProducts {
  std::vector<Started> started;    // in the order of their groups
  std::vector<size_t> group_ends;  // of the groups that are committed
  std::vector<Sums> sums;
  bool fenced = false;  // StartProducts, since products were waited for

  Sums& SumsOf(const float* registers) {
    return *std::find_if(sums.begin(), sums.end(),
                         [&](const Sums& s) { return s.registers == registers; });
  }
};
thread_local std::vector<ThreadProducts> threads;

// A matrix descriptor, by the PTX manual: bits 0 to 13 the address, 16 to 29 the leading
// dimension's byte offset, 32 to 45 the stride dimension's, each without its last 4 bits; 49 to 51
// the base offset; 62 and 63 the swizzle mode: 1 of 128 bytes, 2 of 64, 3 of 32.
struct Matrix {
  uint32_t address, leading, stride;
  uint32_t swizzle_bytes;

  explicit Matrix(uint64_t bits) {
    constexpr uint64_t kReserved = 0x3ff1c000c000c000;
    constexpr uint32_t kField = 0x3fff;
    if ((bits & kReserved) != 0) KernelFault("a matrix descriptor with reserved bits");
    if ((bits >> 49 & 7) != 0) KernelFault("base offsets of matrix descriptors are not emulated");
    if (bits >> 62 == 0) KernelFault("matrices without swizzle are not emulated");
    address = (static_cast<uint32_t>(bits) & kField) << 4;
    leading = (static_cast<uint32_t>(bits >> 16) & kField) << 4;
    stride = (static_cast<uint32_t>(bits >> 32) & kField) << 4;
    swizzle_bytes = 256u >> (bits >> 62);
  }

  // The 16-byte piece whose place, were there no swizzle, is `offset` from the beginning. Of its
  // address, the lowest bits above the 16 bytes (3 of them for 128 bytes, 2, 1) are inverted where
  // those three places higher are set.
  const uint16_t* Piece(uint32_t offset) const {
    uint32_t at = address + offset;
    at ^= (at >> 3) & (swizzle_bytes - 1) & ~15u;
    const unsigned char* piece = AtSharedAddress(at);
    if (at % 16 != 0 || piece == nullptr || AtSharedAddress(at + 15) == nullptr) {
      KernelFault("a product reads what is not shared memory");
    }
    if (!ProductsSee(piece)) {
      KernelFault("a product reads what was written without a fence in front of telling so");
    }
    return reinterpret_cast<const uint16_t*>(piece);
  }
  // What is added up over is contiguous ("K-major"): elements k to k + 7 of a row (of a) or column
  // (of b). Eight rows lie swizzle_bytes apart, eights of rows `stride`.
  const uint16_t* AlongK(int row, int k) const {
    const auto r = static_cast<uint32_t>(row);
    return Piece(r / 8 * stride + r % 8 * swizzle_bytes + static_cast<uint32_t>(k) * 2);
  }
  // The other dimension is contiguous ("MN-major"): elements n to n + 7 at k. As many as the
  // swizzle spans lie side by side, the next as many `leading` further; eight k lie swizzle_bytes
  // apart, eights of k `stride`.
  const uint16_t* AcrossK(int k, int n) const {
    const uint32_t bytes = static_cast<uint32_t>(n) * 2, u = static_cast<uint32_t>(k);
    return Piece(bytes / swizzle_bytes * leading + bytes % swizzle_bytes + u / 8 * stride +
                 u % 8 * swizzle_bytes);
  }
};

// What a lane brings to the meeting of its warp.
struct WaitingLane {
  ThreadProducts* products;
  size_t count;  // how many of them are to end
};
using Lanes = void* const*;
WaitingLane& LaneAt(Lanes lanes, int lane) { return *static_cast<WaitingLane*>(lanes[lane]); }
const Started& StartedAt(Lanes lanes, int lane, size_t index) {
  return LaneAt(lanes, lane).products->started[index];
}

void RequireAgreement(Lanes lanes, size_t index) {
  const Product& first = StartedAt(lanes, 0, index).product;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const Started& started = StartedAt(lanes, lane, index);
    const Product& p = started.product;
    const bool same = p.num_tiles == first.num_tiles && p.b == first.b && p.add == first.add &&
                      p.b_along_rows == first.b_along_rows && p.to_float == first.to_float &&
                      (p.a_registers == nullptr) == (first.a_registers == nullptr) &&
                      (p.a_registers != nullptr || p.a == first.a);
    if (!same) KernelFault("the lanes of a warp do not start the same product");
    if (p.a_registers != nullptr &&
        std::memcmp(p.a_registers, started.a_registers, sizeof(started.a_registers)) != 0) {
      KernelFault("the left side's registers have changed under a product");
    }
    const auto* sums = reinterpret_cast<const unsigned char*>(p.sums);
    const size_t num_bytes = sizeof(float) * 4 * p.num_tiles;
    if (std::any_of(sums, sums + num_bytes, [](unsigned char c) { return c != kPoison; })) {
      KernelFault("the sums' registers have changed under a product");
    }
  }
}

// The warp's rows of a; lane 4 g + m has in register r elements 2 m and 2 m + 1, from 8 on where r
// >= 2, of row g, or g + 8 where r is odd.
void ReadA(Lanes lanes, size_t index, float (&a)[kWarpRows][kK]) {
  const Product& product = StartedAt(lanes, 0, index).product;
  if (product.a_registers == nullptr) {
    const Matrix matrix(product.a);
    const int first_row = ThreadNumber() / kWarpSize % kWarpsOfGroup * kWarpRows;
    for (int i = 0; i < kWarpRows; ++i) {
      for (int k = 0; k < kK; ++k) {
        const uint16_t* piece = matrix.AlongK(first_row + i, k / kPiece * kPiece);
        a[i][k] = product.to_float(piece[k % kPiece]);
      }
    }
    return;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const uint32_t* registers = StartedAt(lanes, lane, index).a_registers;
    for (int r = 0; r < 4; ++r) {
      for (int half = 0; half < 2; ++half) {
        a[lane / 4 + r % 2 * 8][lane % 4 * 2 + half + r / 2 * 8] =
            product.to_float(static_cast<uint16_t>(registers[r] >> (16 * half)));
      }
    }
  }
}

void ReadB(const Product& product, float (&b)[kK][kMaxN]) {
  const Matrix matrix(product.b);
  const int num_columns = 8 * product.num_tiles;
  for (int k = 0; k < kK; ++k) {
    for (int n = 0; n < num_columns; ++n) {
      const uint16_t* piece = product.b_along_rows ? matrix.AcrossK(k, n / kPiece * kPiece)
                                                   : matrix.AlongK(n, k / kPiece * kPiece);
      b[k][n] = product.to_float(piece[(product.b_along_rows ? n : k) % kPiece]);
    }
  }
}

// Where row i, column j of the warp's sums is.
float& SumAt(Lanes lanes, size_t index, int i, int j) {
  const int lane = i % 8 * 4 + j % 8 / 2;
  ThreadProducts& products = *LaneAt(lanes, lane).products;
  Sums& sums = products.SumsOf(products.started[index].product.sums);
  return sums.values[j / 8 * 4 + i / 8 * 2 + j % 2];
}

void Run(Lanes lanes, size_t index) {
  RequireAgreement(lanes, index);
  const Product& product = StartedAt(lanes, 0, index).product;
  float a[kWarpRows][kK], b[kK][kMaxN];
  ReadA(lanes, index, a);
  ReadB(product, b);
  const int num_columns = 8 * product.num_tiles;
  for (int i = 0; i < kWarpRows; ++i) {
    float row[kMaxN];
    for (int j = 0; j < num_columns; ++j) {
      row[j] = product.add ? SumAt(lanes, index, i, j) : 0.0f;
    }
    for (int k = 0; k < kK; ++k) {
      for (int j = 0; j < num_columns; ++j) row[j] += a[i][k] * b[k][j];
    }
    for (int j = 0; j < num_columns; ++j) SumAt(lanes, index, i, j) = row[j];
  }
}

// The products have ended: sums that no other adds to are there.
void Finish(const WaitingLane& lane) {
  ThreadProducts& products = *lane.products;
  const auto end = products.started.begin() + static_cast<ptrdiff_t>(lane.count);
  for (auto started = products.started.begin(); started != end; ++started) {
    Sums& sums = products.SumsOf(started->product.sums);
    if (--sums.num_products > 0) continue;
    std::copy(sums.values.begin(), sums.values.end(), sums.registers);
    products.sums.erase(products.sums.begin() + (&sums - products.sums.data()));
  }
  products.started.erase(products.started.begin(), end);
}

void RunAll(void* const* lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes[lane] == nullptr || LaneAt(lanes, lane).count != LaneAt(lanes, 0).count) {
      KernelFault("the lanes of a warp do not wait for the same products");
    }
  }
  for (size_t index = 0; index < LaneAt(lanes, 0).count; ++index) Run(lanes, index);
  for (int lane = 0; lane < kWarpSize; ++lane) Finish(LaneAt(lanes, lane));
}

ThreadProducts& Mine() { return threads[ThreadNumber()]; }

}  // namespace

void StartProducts() { Mine().fenced = true; }

void Multiply(const Product& product) {
  ThreadProducts& mine = Mine();
  if (!mine.fenced) KernelFault("starts a product without wgmma.fence");
  Started started = {product, {}};
  if (product.a_registers != nullptr) {
    std::copy(product.a_registers, product.a_registers + 4, started.a_registers);
  }
  const auto known = std::find_if(mine.sums.begin(), mine.sums.end(),
                                  [&](const Sums& s) { return s.registers == product.sums; });
  if (known != mine.sums.end()) {
    ++known->num_products;
  } else {
    const int count = 4 * product.num_tiles;
    mine.sums.push_back({product.sums, {product.sums, product.sums + count}, 1});
    std::memset(product.sums, kPoison, sizeof(float) * count);
  }
  mine.started.push_back(started);
}

void CommitProducts() { Mine().group_ends.push_back(Mine().started.size()); }

void WaitProducts(int num_pending, const std::source_location& at) {
  ThreadProducts& mine = Mine();
  const int num_ended = std::max(static_cast<int>(mine.group_ends.size()) - num_pending, 0);
  const size_t count = num_ended == 0 ? 0 : mine.group_ends[num_ended - 1];
  mine.group_ends.erase(mine.group_ends.begin(), mine.group_ends.begin() + num_ended);
  for (size_t& end : mine.group_ends) end -= count;
  mine.fenced = false;
  if (count > 0) LetOthersRun(at);
  WaitingLane lane = {&mine, count};
  MeetWarp(~0u, &lane, RunAll, at);
}

void SetRegisters(int num_registers) {
  if (num_registers < 24 || num_registers > 256 || num_registers % 8 != 0) {
    KernelFault("setmaxnreg of " + std::to_string(num_registers));
  }
}

void ForgetProducts(int num_threads) { threads.assign(num_threads, {}); }

bool ProductsUnderWay() { return !Mine().started.empty(); }

}  // namespace polystrate::emulator
