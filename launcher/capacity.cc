#include "launcher/capacity.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/block_pool.h"
#include "engine/kv_cache.h"
#include "engine/memory_plan.h"
#include "kernels/core/status.h"
#include "launcher/process_memory.h"
#include "parallel/stage_plan.h"

namespace polystrate {
namespace {

int64_t BlocksFor(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// A pool of num_blocks for the whole model.
absl::StatusOr<KvCache> TakePool(const ModelConfig& config, int64_t num_blocks,
                                 const CapacityOptions& options) {
  StageCosts costs;
  costs.layer.assign(config.num_layers, 1.0);
  ASSIGN_OR_RETURN(const StagePlan plan, PlanStages(config.sharing, costs, /*pp_size=*/1));
  const KvCacheShape shape{num_blocks, options.block_size, config.num_kv_heads, config.head_dim,
                           options.dtype};
  return KvCache::Create(shape, config.sharing, plan.stages[0], Device{});
}

int64_t AdmitUntilRefused(int64_t num_blocks, int64_t blocks_per_sequence) {
  BlockPool blocks(num_blocks);
  int64_t admitted = 0;
  for (std::vector<int32_t> table; blocks.Allocate(blocks_per_sequence, &table); table.clear()) {
    ++admitted;
  }
  return admitted;
}

// What the process grows by when a pool of num_blocks is taken and every byte of it written.
absl::StatusOr<int64_t> ResidentBytesOfPool(const ModelConfig& config, int64_t num_blocks,
                                            const CapacityOptions& options) {
  ASSIGN_OR_RETURN(KvCache cache, TakePool(config, num_blocks, options));
  ASSIGN_OR_RETURN(const int64_t available, AvailableBytes());
  if (cache.num_bytes() > available) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a pool of ", num_blocks * options.block_size,
        " tokens is written to be measured and takes ", cache.num_bytes(), " bytes, of which ",
        available, " are available; expected a smaller --sequence_len"));
  }
  ASSIGN_OR_RETURN(const int64_t before, ResidentBytes());
  std::memset(cache.pool().data(), 1, cache.num_bytes());
  ASSIGN_OR_RETURN(const int64_t after, ResidentBytes());
  return after - before;
}

}  // namespace

absl::StatusOr<Capacity> MeasureCapacity(const ModelConfig& config,
                                         const CapacityOptions& options) {
  StageCosts costs;
  costs.layer.assign(config.num_layers, 1.0);
  ASSIGN_OR_RETURN(const StagePlan stages, PlanStages(config.sharing, costs, /*pp_size=*/1));
  MemoryOptions memory;
  memory.dtype = options.dtype;
  memory.block_size = options.block_size;
  memory.kv_memory = options.kv_memory;
  ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(config, stages, memory));

  Capacity capacity;
  {
    ASSIGN_OR_RETURN(const KvCache pool, TakePool(config, plan.num_blocks, options));
    capacity.bytes_per_token =
        static_cast<double>(pool.num_bytes()) / static_cast<double>(plan.max_tokens());
  }
  capacity.formula_bytes = config.KvBytesPerToken(options.dtype);
  const int64_t per_sequence = BlocksFor(options.sequence_len, options.block_size);
  capacity.max_sequences = AdmitUntilRefused(plan.num_blocks, per_sequence);
  if (capacity.max_sequences == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv_memory ", options.kv_memory, " holds no sequence of ", options.sequence_len,
        " tokens: one takes ", per_sequence * plan.stages[0].kv_bytes_per_block, " bytes"));
  }
  const int64_t touched = options.resident_sequences * per_sequence;
  ASSIGN_OR_RETURN(capacity.resident_bytes, ResidentBytesOfPool(config, touched, options));
  capacity.resident_tokens = touched * options.block_size;
  return capacity;
}

absl::StatusOr<std::vector<ResidentSample>> MeasureLinearity(int head_dim, double largest,
                                                             const CapacityOptions& options) {
  std::vector<ResidentSample> samples;
  ModelConfig config;
  config.num_layers = 12;
  config.head_dim = head_dim;
  for (int owners : {1, 2, 4, 6, 12}) {
    ASSIGN_OR_RETURN(config.sharing, KvSharing::Mlkv(config.num_layers, owners));
    for (int kv_heads : {1, 3, 4, 12}) {
      config.num_kv_heads = kv_heads;
      for (int64_t sequences : {1, 2, 4}) {
        for (int64_t length : {512, 1024, 2048}) {
          ResidentSample sample{owners, kv_heads, sequences, length};
          if (sample.product() > largest) continue;
          const int64_t blocks = sequences * BlocksFor(length, options.block_size);
          ASSIGN_OR_RETURN(sample.resident_bytes, ResidentBytesOfPool(config, blocks, options));
          samples.push_back(sample);
        }
      }
    }
  }
  return samples;
}

LinearFit FitResident(const std::vector<ResidentSample>& samples) {
  double mean_x = 0, mean_y = 0;
  for (const ResidentSample& s : samples) {
    mean_x += s.product() / static_cast<double>(samples.size());
    mean_y += static_cast<double>(s.resident_bytes) / static_cast<double>(samples.size());
  }
  double xx = 0, xy = 0, yy = 0;
  for (const ResidentSample& s : samples) {
    const double x = s.product() - mean_x, y = static_cast<double>(s.resident_bytes) - mean_y;
    xx += x * x;
    xy += x * y;
    yy += y * y;
  }
  LinearFit fit;
  fit.slope = xy / xx;
  fit.intercept = mean_y - fit.slope * mean_x;
  fit.r_squared = xy * xy / (xx * yy);
  for (const ResidentSample& s : samples) {
    const double error =
        static_cast<double>(s.resident_bytes) - fit.intercept - fit.slope * s.product();
    fit.largest_residual = std::max(fit.largest_residual, std::abs(error));
  }
  return fit;
}

}  // namespace polystrate
