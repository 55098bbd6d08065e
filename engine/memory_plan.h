// MemoryPlan: how many KV blocks fit, from shapes alone, before anything is loaded. The engine
// takes num_blocks from here, so what `polystrate plan` prints is what `serve` allocates.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/core/dtype.h"
#include "parallel/stage_plan.h"

namespace polystrate {

struct MemoryOptions {
  int tp_size = 1;
  DType dtype = DType::kFloat32;         // of the KV cache
  int64_t block_size = 16;               // tokens of a KV block, 1 to 4096
  int64_t kv_memory = int64_t{1} << 30;  // bytes that each rank gives to its KV cache
};

// One rank of a stage: the one that holds the most KV heads, for where tp_size does not divide them
// ranks differ.
struct StageMemory {
  int64_t kv_bytes_per_token = 0;  // 2 * owners of the stage * kv_heads_per_rank * head_dim * bytes
  int64_t kv_bytes_per_block = 0;
  int64_t num_blocks = 0;  // that this stage's kv_memory alone would hold
};

struct MemoryPlan {
  int64_t block_size = 0;  // as the options say, like kv_memory
  int64_t kv_memory = 0;
  int kv_heads_per_rank = 0;  // the most that a rank holds
  // KV heads that the ranks of a stage hold together beyond the model's own: 0 where tp_size
  // divides num_kv_heads.
  int kv_head_copies = 0;
  std::vector<StageMemory> stages;  // [pp_size]
  // Every block lies in every stage, so the tightest stage decides; and a token's place in the
  // cache is an int32 (slot_mapping), so num_blocks * block_size < 2^31.
  int64_t num_blocks = 0;

  int64_t max_tokens() const { return num_blocks * block_size; }
  // Sequences of num_tokens tokens (>= 1) that fit at once, none sharing a prefix.
  int64_t MaxSequences(int64_t num_tokens) const {
    return num_blocks / ((num_tokens + block_size - 1) / block_size);
  }
};

// INVALID_ARGUMENT when tp_size does not divide the heads, block_size is out of range, or kv_memory
// holds no block of some stage (the message says how many bytes it needs).
absl::StatusOr<MemoryPlan> PlanMemory(const ModelConfig& config, const StagePlan& plan,
                                      const MemoryOptions& options);

}  // namespace polystrate
