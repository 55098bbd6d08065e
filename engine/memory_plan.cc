#include "engine/memory_plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "parallel/shard.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxBlockSize = 4096;

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const ModelConfig& config, const StagePlan& plan,
                                      const MemoryOptions& options) {
  RETURN_IF_ERROR(CheckTpDividesHeads(config.num_heads, options.tp_size));
  if (options.block_size < 1 || options.block_size > kMaxBlockSize) {
    return absl::InvalidArgumentError(absl::StrCat("--block_size is ", options.block_size,
                                                   "; expected 1 to ", kMaxBlockSize, " tokens"));
  }
  MemoryPlan memory;
  memory.block_size = options.block_size;
  memory.kv_memory = options.kv_memory;
  memory.kv_head_copies = -config.num_kv_heads;
  for (int rank = 0; rank < options.tp_size; ++rank) {
    const int held =
        ShardHeads(config.num_heads, config.num_kv_heads, options.tp_size, rank).kv_count;
    memory.kv_heads_per_rank = std::max(memory.kv_heads_per_rank, held);
    memory.kv_head_copies += held;
  }

  memory.num_blocks = std::numeric_limits<int32_t>::max() / options.block_size;
  for (int s = 0; s < plan.pp_size(); ++s) {
    const int64_t owners = static_cast<int64_t>(plan.stages[s].owners.size());
    CHECK_GE(owners, 1);  // the layer at a legal cut reads no lower layer, so it owns
    StageMemory stage;
    stage.kv_bytes_per_token =
        2 * owners * memory.kv_heads_per_rank * config.head_dim * SizeOf(options.dtype);
    stage.kv_bytes_per_block = stage.kv_bytes_per_token * options.block_size;
    stage.num_blocks = options.kv_memory / stage.kv_bytes_per_block;
    if (stage.num_blocks < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--kv_memory ", options.kv_memory, " holds no KV block: a block of ", options.block_size,
          " tokens takes ", stage.kv_bytes_per_block, " bytes on each rank of stage ", s,
          "; expected at least that, or a smaller --block_size"));
    }
    memory.num_blocks = std::min(memory.num_blocks, stage.num_blocks);
    memory.stages.push_back(stage);
  }
  return memory;
}

}  // namespace polystrate
