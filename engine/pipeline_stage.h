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
#include "engine/wanted_rows.h"
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
  bool prefill_skip = true;  // above the last owner, compute wanted rows alone (wanted_rows.h)
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

  // For tests: the logits of the last rows that were sampled or scored (the sampler's rank alone),
  // all scratch memory, the cache.
  const Tensor& logits() const { return pool_.all.logits; }
  const Activations& activations() const { return pool_.all; }
  KvCache& kv_cache() { return kv_cache_; }
  const StageWeights& weights() const { return weights_; }
  Timeline& timeline() { return timeline_; }

 private:
  PipelineStage(const RankContext& rank, const ModelConfig& config, const StageOptions& options,
                StageWeights weights);
  TransformerContext Context() const;
  void EmbedOrReceive(const StepInputs& inputs, const Activations& a);
  StepResult RunLastStage(const StepPlan& plan, const StepInputs& inputs, const Activations& a);
  void RunWantedRows(const StepInputs& inputs, const Tensor& hidden, const Activations& wanted);
  void ComputeLogits(const Activations& a, absl::Span<const int32_t> rows);
  // `a` holds the wanted rows.
  StepResult ScoreAndSample(const StepPlan& plan, const Activations& a);
  void ScoreRows(const StepPlan& plan, const Activations& a, StepResult* result);
  void SampleRows(const StepPlan& plan, const Activations& a, StepResult* result);

  const RankContext rank_;
  const ModelConfig config_;
  const StageOptions options_;
  StageWeights weights_;
  size_t last_owner_ = 0;  // in weights_.layers; in the last stage it is the model's
  KvCache kv_cache_;
  ActivationPool pool_;
  Buffer rope_buffer_;
  RopeTable rope_;
  WantedRows wanted_;  // of the step that runs; every row without prefill_skip
  Timeline timeline_;
};

}  // namespace polystrate
