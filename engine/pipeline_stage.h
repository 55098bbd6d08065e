// PipelineStage: one rank's part of a step: embed or receive, run the stage's layers, sample or
// send.
#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/activations.h"
#include "engine/kv_cache.h"
#include "engine/model_config.h"
#include "engine/step_plan.h"
#include "engine/timeline.h"
#include "engine/transformer.h"
#include "engine/weights.h"
#include "parallel/process_group.h"
#include "parallel/topology.h"

namespace polystrate {

// What a rank is and has; owned by the launcher (or a test) for as long as the stage lives.
struct RankContext {
  Topology topology;
  Stream& stream;
  ProcessGroups& groups;
};

struct StageOptions {
  DType dtype = DType::kFloat32;
  int64_t num_blocks = 0;
  int64_t block_size = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t max_model_len = 0;
};

class PipelineStage {
 public:
  // Takes all the memory that steps will need. RESOURCE_EXHAUSTED when it cannot be had.
  static absl::StatusOr<std::unique_ptr<PipelineStage>> Create(const RankContext& rank,
                                                               const ModelConfig& config,
                                                               const Stage& stage,
                                                               StageWeights weights,
                                                               const StageOptions& options);

  // Runs the plan; the sampler's rank gets the result, the others nothing.
  std::optional<StepResult> Run(const StepPlan& plan);

  // Every rank calls it once before the first step: stages compare what they are going to hand over
  // (dtype, hidden_size, largest step). INTERNAL names the difference.
  absl::Status AgreeOnHandover();

  // For tests: the logits of the last rows that were sampled or scored (the sampler's rank alone).
  const Tensor& logits() const { return pool_.all.logits; }
  KvCache& kv_cache() { return kv_cache_; }
  const StageWeights& weights() const { return weights_; }
  Timeline& timeline() { return timeline_; }

 private:
  PipelineStage(const RankContext& rank, const ModelConfig& config, const StageOptions& options,
                StageWeights weights);
  void EmbedOrReceive(const StepInputs& inputs, const Activations& a);
  void ComputeLogits(const Activations& a, absl::Span<const int32_t> rows);
  StepResult SampleAndScore(const StepPlan& plan, const Activations& a);

  const RankContext rank_;
  const ModelConfig config_;
  const StageOptions options_;
  StageWeights weights_;
  KvCache kv_cache_;
  ActivationPool pool_;
  Buffer rope_buffer_;
  RopeTable rope_;
  Timeline timeline_;
};

}  // namespace polystrate
