#include "engine/kv_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {

absl::StatusOr<KvCache> KvCache::Create(const KvCacheShape& shape, const KvSharing& sharing,
                                        const Stage& stage, Device device) {
  KvCache cache;
  cache.first_layer_ = stage.first_layer;
  const int64_t num_slots = static_cast<int64_t>(stage.owners.size());
  absl::StatusOr<Buffer> pool = Buffer::Allocate(device, num_slots * shape.BytesPerSlot());
  if (!pool.ok()) {
    return absl::Status(pool.status().code(),
                        absl::StrCat("the KV cache of --kv_memory: ", pool.status().message()));
  }
  cache.pool_ = *std::move(pool);

  char* next = static_cast<char*>(cache.pool_.data());
  auto take = [&] {
    Tensor tensor(next, shape.dtype, device,
                  {shape.num_blocks, shape.num_kv_heads, shape.block_size, shape.head_dim});
    next += tensor.num_bytes();
    return tensor;
  };
  for (int64_t i = 0; i < num_slots; ++i) {
    const Tensor key = take();
    cache.slots_.push_back({key, take()});
  }
  for (int layer = stage.first_layer; layer < stage.end_layer; ++layer) {
    const auto owner =
        std::find(stage.owners.begin(), stage.owners.end(), sharing.kv_source[layer]);
    CHECK(owner != stage.owners.end());  // a legal cut never leaves an owner behind
    cache.slot_of_layer_.push_back(static_cast<int>(owner - stage.owners.begin()));
  }
  return cache;
}

}  // namespace polystrate
