#include "launcher/attention_speed.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "kernels/core/copy.h"
#include "kernels/core/status.h"
#include "kernels/cuda/context.h"
#include "kernels/ops.h"
#include "launcher/cache_sweep.h"
#include "launcher/device_integers.h"

namespace polystrate {
namespace {

constexpr int64_t kPatternElements = int64_t{1} << 24;  // of random values, which repeat

double KvElements(const AttentionShape& shape) {
  return 2.0 * static_cast<double>(shape.num_sequences * shape.context) * shape.num_kv_heads *
         shape.head_dim;
}

int64_t BlocksPerSequence(const AttentionShape& shape, int64_t block_size) {
  return (shape.context + block_size - 1) / block_size;
}

// Of key or value.
int64_t SlotElements(const AttentionShape& shape, int64_t block_size) {
  return shape.num_sequences * BlocksPerSequence(shape, block_size) * block_size *
         shape.num_kv_heads * shape.head_dim;
}

int64_t QueryElements(const AttentionShape& shape) {
  return shape.num_queries() * shape.num_heads * shape.head_dim;
}

// Memory for the largest of the shapes, full of random values.
struct Memory {
  Buffer key, value, query, out;

  static absl::StatusOr<Memory> Take(Device device, const std::vector<AttentionShape>& shapes,
                                     const AttentionBenchOptions& options) {
    int64_t slot = 0, query = 0;
    for (const AttentionShape& shape : shapes) {
      slot = std::max(slot, SlotElements(shape, options.block_size));
      query = std::max(query, QueryElements(shape));
    }
    Memory memory;
    const OwnedTensor pattern(options.dtype, {kPatternElements});
    for (const auto& [buffer, size] :
         {std::pair(&memory.key, slot), std::pair(&memory.value, slot),
          std::pair(&memory.query, query), std::pair(&memory.out, query)}) {
      ASSIGN_OR_RETURN(*buffer, Buffer::Allocate(device, size * SizeOf(options.dtype)));
      for (int64_t begin = 0; begin < size; begin += kPatternElements) {
        const int64_t count = std::min(kPatternElements, size - begin);
        CopyNow((*pattern).Rows(0, count),
                Tensor(buffer->data(), options.dtype, device, {size}).Rows(begin, count));
      }
    }
    return memory;
  }
};

// The blocks of all sequences in no order, as a cache has them that has run for a while.
std::vector<int32_t> ShuffledBlocks(int64_t count) {
  std::vector<int32_t> blocks(count);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::minstd_rand(1));
  return blocks;
}

Timing MeasureShape(const Stream& stream, const AttentionShape& shape,
                    const AttentionBenchOptions& options, const Memory& memory,
                    const std::function<void()>& sweep) {
  const Device device = stream.device();
  if (device.type == DeviceType::kCuda) stream.cuda().set_warpgroups(shape.warpgroups);
  const int64_t n = shape.num_sequences, queries = shape.num_queries() / n;
  const int64_t blocks = BlocksPerSequence(shape, options.block_size);
  std::vector<int32_t> starts(n + 1);
  for (int64_t i = 0; i <= n; ++i) starts[i] = static_cast<int32_t>(i * queries);
  const DeviceIntegers cu_seqlens_q(device, std::move(starts));
  const DeviceIntegers context_lens(device,
                                    std::vector<int32_t>(n, static_cast<int32_t>(shape.context)));
  const DeviceIntegers tables(device, ShuffledBlocks(n * blocks));
  const AttentionBatch batch = {cu_seqlens_q.View({n + 1}), context_lens.View({n}),
                                tables.View({n, blocks}), queries, shape.context};

  const auto slot_half = [&](const Buffer& buffer) {
    return Tensor(buffer.data(), options.dtype, device,
                  {n * blocks, shape.num_kv_heads, options.block_size, shape.head_dim});
  };
  const auto rows = [&](const Buffer& buffer) {
    return Tensor(buffer.data(), options.dtype, device,
                  {shape.num_queries(), int64_t{shape.num_heads} * shape.head_dim});
  };
  const KvSlot slot = {slot_half(memory.key), slot_half(memory.value)};
  AttentionOptions attention;
  attention.head_dim = shape.head_dim;
  attention.queries_per_kv_head = shape.num_heads / shape.num_kv_heads;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  return Time(
      stream, options.repeats,
      [&] { PagedAttention(stream, rows(memory.query), slot, batch, attention, rows(memory.out)); },
      sweep);
}

}  // namespace

double AttentionShape::Bytes(DType dtype) const {
  const double rows = 2.0 * static_cast<double>(num_queries()) * num_heads * head_dim;
  return static_cast<double>(SizeOf(dtype)) * (KvElements(*this) + rows);
}

double AttentionShape::Operations() const {
  const auto length = static_cast<double>(context);
  const double pairs = prefill ? length * (length + 1) / 2 : length;
  return 4.0 * static_cast<double>(num_sequences) * num_heads * head_dim * pairs;
}

absl::StatusOr<std::vector<Timing>> MeasureAttention(const Stream& stream,
                                                     const std::vector<AttentionShape>& shapes,
                                                     const AttentionBenchOptions& options,
                                                     const std::function<void(double)>& progress) {
  ASSIGN_OR_RETURN(const Memory memory, Memory::Take(stream.device(), shapes, options));
  const CacheSweep sweep(stream, options.sweep_bytes);
  std::vector<Timing> timings;
  for (const AttentionShape& shape : shapes) {
    timings.push_back(MeasureShape(stream, shape, options, memory, [&] { sweep.Read(); }));
    progress(static_cast<double>(timings.size()) / static_cast<double>(shapes.size()));
  }
  return timings;
}

}  // namespace polystrate
