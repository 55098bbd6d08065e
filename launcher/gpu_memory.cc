#include "launcher/gpu_memory.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/weights.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// The context, the code of kernels, cuBLASLt's workspace, NCCL's buffers, graphs, uploads, tables
// of blocks.
constexpr int64_t kOverhead = int64_t{1536} << 20;

// Logits, in their parts and together (engine/activations.cc).
constexpr int64_t kLogits = int64_t{768} << 20;

// The rest of the activations, and the table of rotations.
int64_t ActivationBytes(const ModelConfig& config, const GpuMemoryUse& use) {
  const int64_t element = SizeOf(use.dtype);
  const int64_t heads = int64_t{2} * config.num_heads + 2 * config.num_kv_heads;
  const int64_t per_token = config.hidden_size * (8 + element) + heads * config.head_dim * element +
                            3 * int64_t{config.intermediate_size} * element;
  return use.max_num_batched_tokens * per_token + use.max_model_len * config.rotary_dim * 4;
}

}  // namespace

absl::StatusOr<int64_t> KvBytesOnGpu(const ModelConfig& config, const StagePlan& plan,
                                     const GpuMemoryUse& use, int64_t gpu_bytes) {
  int64_t weights = 0;
  for (int stage = 0; stage < plan.pp_size(); ++stage) {
    const Topology topology(use.parallel, stage * use.parallel.tp_size);
    ASSIGN_OR_RETURN(const int64_t bytes,
                     StageWeightBytes(config, topology, plan.stages[stage], use.dtype));
    weights = std::max(weights, bytes);
  }
  const auto share =
      static_cast<int64_t>(use.utilization * static_cast<double>(gpu_bytes)) / use.ranks_per_gpu;
  const int64_t activations = ActivationBytes(config, use) + kLogits;
  const int64_t left = share - weights - activations - kOverhead;
  if (left > 0) return left;
  return absl::ResourceExhaustedError(absl::StrCat(
      "a rank may take ", share, " bytes of its GPU (--gpu_memory_utilization ", use.utilization,
      " of ", gpu_bytes, use.ranks_per_gpu > 1 ? ", shared" : "", "), but its weights take ",
      weights, ", activations ", activations, " and CUDA some ", kOverhead,
      ": nothing is left for the KV cache; use more ranks (--tp, --pp)"));
}

}  // namespace polystrate
