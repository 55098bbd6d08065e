// How much of a GPU's memory the KV cache gets when --kv_memory does not say.
#pragma once

#include <cstdint>
#include <string>

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
  int64_t max_num_seqs = 0;
  int64_t block_size = 16;
  double utilization = 0.9;  // of the GPU's memory, that an engine may take in all
  int64_t ranks_per_gpu = 1;
};

// What becomes of the part of a GPU that one rank may take. Bytes.
struct GpuMemoryParts {
  double utilization = 0.0;
  int64_t total = 0;    // of the GPU
  int64_t share = 0;    // of it, this rank's
  int64_t in_use = 0;   // of the share, before weights are read: CUDA, communicators, scratch,
                        // other processes
  int64_t weights = 0;  // of the rank's stage, like the next
  int64_t activations = 0;
  int64_t kept = 0;  // for graphs, and for code that CUDA loads when it is first used

  int64_t kv_cache() const { return share - in_use - weights - activations - kept; }
};
// "0.9 of 139.8 GiB is 125.8: in use 1.2 (CUDA, communicators, scratch), weights 13.3, ...".
std::string Describe(const GpuMemoryParts& parts);
// RESOURCE_EXHAUSTED, with the sizes and what to change, when nothing is left for the KV cache.
absl::Status CheckRoom(const GpuMemoryParts& parts);

// Of a rank of `stage` on a GPU of total_bytes, of which used_bytes are in use, by all of its ranks
// together.
absl::StatusOr<GpuMemoryParts> DivideGpu(const ModelConfig& config, const StagePlan& plan,
                                         int stage, const GpuMemoryUse& use, int64_t total_bytes,
                                         int64_t used_bytes);
// The same of the stage for which least is left, before any GPU is in use: what CUDA, communicators
// and scratch will take is guessed.
absl::StatusOr<GpuMemoryParts> GuessGpu(const ModelConfig& config, const StagePlan& plan,
                                        const GpuMemoryUse& use, int64_t total_bytes);

// The most that operators ask of CudaContext::Scratch in a step, on a GPU of so many
// multiprocessors: parts of contexts that decode attention adds up, products before their epilogue,
// logits with penalties.
int64_t ScratchBytes(const ModelConfig& config, const GpuMemoryUse& use, int num_sms);

}  // namespace polystrate
