#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/parallel.h"

namespace polystrate {

// Float32 where Hugging Face has float32, so that long contexts get the same angles.
std::vector<float> RopeFrequencies(double base, int rotary_dim) {
  std::vector<float> frequencies;
  for (int j = 0; j < rotary_dim; j += 2) {
    const float exponent = static_cast<float>(j) / static_cast<float>(rotary_dim);
    frequencies.push_back(1.0f / std::pow(static_cast<float>(base), exponent));
  }
  return frequencies;
}

void FillRopeTable(absl::Span<const float> frequencies, float attention_factor,
                   const RopeTable& table) {
  const int half = table.rotary_dim / 2;
  CHECK_EQ(frequencies.size(), static_cast<size_t>(half));
  CHECK(table.cos_sin.device().type == DeviceType::kCpu);
  float* row = table.cos_sin.data<float>();
  for (int64_t position = 0; position < table.cos_sin.dim(0); ++position) {
    for (int j = 0; j < half; ++j) {
      const double angle = static_cast<double>(static_cast<float>(position) * frequencies[j]);
      row[j] = static_cast<float>(std::cos(angle)) * attention_factor;
      row[half + j] = static_cast<float>(std::sin(angle)) * attention_factor;
    }
    row += table.rotary_dim;
  }
}

namespace cpu {
namespace {

void StoreKv(const Tensor& key, const Tensor& value, const Tensor& slot_mapping,
             const KvSlot& slot) {
  const int64_t num_heads = slot.key.dim(1), block_size = slot.key.dim(2);
  const int64_t element_bytes = SizeOf(key.dtype());
  const int64_t head_bytes = slot.key.dim(3) * element_bytes;
  // A few hundred bytes per token: not worth a team of threads.
  for (int64_t t = 0; t < key.dim(0); ++t) {
    const int64_t where = slot_mapping.data<int32_t>()[t];
    if (where == -1) continue;
    CHECK(where >= 0 && where < slot.key.dim(0) * block_size);
    const int64_t row = where / block_size * num_heads * block_size + where % block_size;
    for (int64_t h = 0; h < num_heads; ++h) {
      const int64_t to = (row + h * block_size) * head_bytes;
      const int64_t from = t * element_bytes;
      std::memcpy(static_cast<char*>(slot.key.raw()) + to,
                  static_cast<const char*>(key.raw()) + from * key.row_stride() + h * head_bytes,
                  head_bytes);
      std::memcpy(
          static_cast<char*>(slot.value.raw()) + to,
          static_cast<const char*>(value.raw()) + from * value.row_stride() + h * head_bytes,
          head_bytes);
    }
  }
}

}  // namespace

void ApplyRope(CpuContext& context, const RopeTable& rope, const Tensor& positions, int head_dim,
               const Tensor& x) {
  const int64_t num_heads = x.dim(1) / head_dim;
  const int64_t head_bytes = head_dim * SizeOf(x.dtype());
  const int64_t row_bytes = x.row_stride() * SizeOf(x.dtype());
  const auto rotate = context.kernels(x.dtype()).rotate;
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, x.dim(1)));
  ParallelForRanges(
      context, x.dim(0), grain, x.num_elements(), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
          const int32_t position = positions.data<int32_t>()[t];
          CHECK(position >= 0 && position < rope.cos_sin.dim(0));
          const float* cos_sin = rope.cos_sin.data<float>() + int64_t{position} * rope.rotary_dim;
          char* head = static_cast<char*>(x.raw()) + t * row_bytes;
          for (int64_t h = 0; h < num_heads; ++h, head += head_bytes) {
            rotate(head, cos_sin, rope.rotary_dim);
          }
        }
      });
}

void RotateAndStoreKv(CpuContext& context, const RopeTable& rope, const Tensor& positions,
                      int head_dim, bool rotate_key, const Tensor& query, const Tensor& key,
                      const Tensor& value, const Tensor& slot_mapping, const KvSlot& slot) {
  if (!query.empty()) ApplyRope(context, rope, positions, head_dim, query);
  if (rotate_key) ApplyRope(context, rope, positions, head_dim, key);
  StoreKv(key, value, slot_mapping, slot);
}

}  // namespace cpu
}  // namespace polystrate
