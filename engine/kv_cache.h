// KvCache: the paged K and V of one stage on one rank: a slot for each owner of the stage, none for
// a reuser, so the pool measures exactly
//   2 * owners * num_kv_heads * head_dim * bytes(dtype) * num_blocks * block_size.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/device.h"
#include "kernels/ops.h"
#include "parallel/kv_sharing.h"
#include "parallel/stage_plan.h"

namespace polystrate {

struct KvCacheShape {
  int64_t num_blocks = 0;
  int64_t block_size = 0;
  int num_kv_heads = 0;  // that this rank holds
  int head_dim = 0;
  DType dtype = DType::kFloat32;

  int64_t BytesPerSlot() const {
    return 2 * num_blocks * block_size * num_kv_heads * head_dim * SizeOf(dtype);
  }
};

class KvCache {
 public:
  // Takes all its memory now. `sharing` is the whole model's.
  static absl::StatusOr<KvCache> Create(const KvCacheShape& shape, const KvSharing& sharing,
                                        const Stage& stage, Device device);

  // The slot that `layer` (an index in the model, of this stage) reads, its own or its owner's.
  const KvSlot& slot(int layer) const { return slots_[slot_of_layer_[layer - first_layer_]]; }
  int64_t num_bytes() const { return pool_.num_bytes(); }
  Buffer& pool() { return pool_; }

 private:
  int first_layer_ = 0;
  std::vector<int> slot_of_layer_;  // [layers of the stage]
  std::vector<KvSlot> slots_;       // [owners of the stage]
  Buffer pool_;
};

}  // namespace polystrate
