#include "engine/dummy_weights.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace polystrate {
namespace {

constexpr float kScale = 0.035f;

// FNV-1a.
uint32_t Hash(const std::string& text) {
  uint32_t hash = 0x811C9DC5u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x01000193u;
  return hash;
}

// MurmurHash3's finaliser: a bijection that lets every input bit reach every output bit.
uint32_t Mix(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x = (x ^ (x >> 13)) * 0xC2B2AE35u;
  return x ^ (x >> 16);
}

void Store(float value, float* to) { *to = value; }
void Store(float value, BFloat16* to) { *to = BFloat16::FromFloat(value); }
void Store(float value, Float16* to) { *to = Float16::FromFloat(value); }

// Below this a thread costs more than it saves.
constexpr int64_t kThreadElements = int64_t{1} << 22;

// Calls fill(begin, end) for all rows, on as many threads as there are cores: billions of elements
// would keep a GPU waiting for half a minute.
template <typename F>
void ForRows(int64_t num_rows, int64_t columns, const F& fill) {
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t parts = std::clamp(num_rows * columns / kThreadElements, int64_t{1}, cores);
  std::vector<std::thread> threads;
  for (int64_t part = 1; part < parts; ++part) {
    threads.emplace_back(fill, num_rows * part / parts, num_rows * (part + 1) / parts);
  }
  fill(0, num_rows / parts);
  for (std::thread& thread : threads) thread.join();
}

// A row of elements that are adjacent in the stored tensor too, from element `from` on.
template <typename T>
void FillRun(uint32_t seed, int64_t from, int64_t count, float offset, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = static_cast<int32_t>(Mix(seed + static_cast<uint32_t>(from + i)));
    Store(offset + static_cast<float>(bits) * (kScale * 0x1p-31f), to + i);
  }
}

}  // namespace

void FillDummy(const std::string& name, const std::vector<int64_t>& stored_shape,
               const Block& block, const Tensor& dst) {
  CHECK(dst.device().type == DeviceType::kCpu);
  CHECK_LE(block.num_rows, dst.dim(0));
  CHECK_LE(block.num_columns, dst.rank() == 2 ? dst.dim(1) : 1);
  const bool vector = stored_shape.size() == 1;
  const int64_t stored_columns = vector ? 1 : stored_shape[1];
  const float offset = vector && absl::EndsWith(name, ".weight") ? 1.0f : 0.0f;
  const uint32_t seed = Mix(Hash(name));
  ForRows(block.num_rows, block.num_columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = (block.row_begin + row) * stored_columns + block.column_begin;
      const Tensor to = dst.Rows(row, 1);
      if (dst.dtype() == DType::kFloat32) {
        FillRun(seed, from, block.num_columns, offset, to.data<float>());
      } else if (dst.dtype() == DType::kFloat16) {
        FillRun(seed, from, block.num_columns, offset, to.data<Float16>());
      } else {
        FillRun(seed, from, block.num_columns, offset, to.data<BFloat16>());
      }
    }
  });
}

}  // namespace polystrate
