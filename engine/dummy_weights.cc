#include "engine/dummy_weights.h"

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
  for (int64_t row = 0; row < block.num_rows; ++row) {
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
}

}  // namespace polystrate
