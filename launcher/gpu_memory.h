// How much of a GPU's memory the KV cache gets when --kv_memory does not say.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/core/dtype.h"
#include "parallel/stage_plan.h"
#include "parallel/topology.h"

namespace polystrate {

struct GpuMemoryUse {
  ParallelConfig parallel;
  DType dtype = DType::kBFloat16;
  int64_t max_model_len = 0;
  int64_t max_num_batched_tokens = 0;
  double utilization = 0.9;  // of the GPU's memory, that an engine may take in all
  int64_t ranks_per_gpu = 1;
};

// What is left of `gpu_bytes` on each rank beside the weights and activations of the stage that
// takes most, and beside what CUDA itself takes: the same for every rank, so that all agree on the
// number of blocks. RESOURCE_EXHAUSTED, with the sizes, when nothing is left.
absl::StatusOr<int64_t> KvBytesOnGpu(const ModelConfig& config, const StagePlan& plan,
                                     const GpuMemoryUse& use, int64_t gpu_bytes);

}  // namespace polystrate
