// PipelineStage: one rank's part of a step: embed or receive, run the stage's layers, sample or
// send.
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "engine/activations.h"
#include "engine/block_tables.h"
#include "engine/decode_graphs.h"
#include "engine/kv_cache.h"
#include "engine/model_config.h"
#include "engine/output_head.h"
#include "engine/rank_context.h"
#include "engine/step_inputs.h"
#include "engine/step_plan.h"
#include "engine/timeline.h"
#include "engine/transformer.h"
#include "engine/wanted_rows.h"
#include "engine/weights.h"
#include "kernels/core/event.h"

namespace polystrate {

struct StageOptions {
  DType dtype = DType::kFloat32;
  int64_t num_blocks = 0;
  int64_t block_size = 16;
  int64_t max_num_batched_tokens = 512;
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 64;  // of a plan
  bool prefill_skip = true;   // above the last owner, compute wanted rows alone (wanted_rows.h)
  bool graphs = true;         // on a GPU, record decode steps and replay them (decode_graphs.h)
};

class PipelineStage {
 public:
  // Takes all the memory that steps will need. RESOURCE_EXHAUSTED when it cannot be had.
  static absl::StatusOr<std::unique_ptr<PipelineStage>> Create(const RankContext& rank,
                                                               const ModelConfig& config,
                                                               const Stage& stage,
                                                               StageWeights weights,
                                                               const StageOptions& options);

  // Enqueues the plan's step, of which at most OutputHead::kMaxPending may be unfinished.
  void Launch(const StepPlan& plan);
  int num_pending() const { return static_cast<int>(launched_ - finished_); }
  // Whether to launch a step while the one before is unfinished, so that a GPU does not wait for
  // the host. Where the host computes itself or would wait for other ranks in the step's own calls,
  // that would only keep back the result.
  bool launches_ahead() const {
    const bool alone = rank_.topology.config.world_size() == 1;
    return rank_.stream.device().type == DeviceType::kCuda && (rank_.groups.over_gpus || alone);
  }
  // Whether Finish() would not have to wait.
  bool CanFinish() const;
  // Waits for the oldest step that is unfinished; the sampler's rank gets the result, the others
  // nothing.
  std::optional<StepResult> Finish();
  // Both, of one plan.
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
  const DecodeGraphs* graphs() const { return graphs_.get(); }  // null: none are recorded
  Timeline& timeline() { return timeline_; }

 private:
  struct Pending {
    uint64_t step_id;
    int32_t num_seqs;
    int32_t num_tokens;
    int64_t begin_ns;
  };

  PipelineStage(const RankContext& rank, const ModelConfig& config, const StageOptions& options,
                StageWeights weights);
  absl::Status TakeMemory(const Stage& stage);
  TransformerContext Context() const;
  void LaunchStep(const StepPlan& plan);
  void LaunchDecode(const StepPlan& plan);
  void Receive(const Activations& a);
  void Embed(const StepInputs& inputs, const Activations& a);
  void Send(const Activations& a);
  void RunLayers(const StepInputs& inputs, const Activations& a);
  void RunLastStage(const StepPlan& plan, const StepInputs& inputs, const Activations& a);
  void RunWantedRows(const StepInputs& inputs, const Tensor& hidden, const Activations& wanted);
  void BeginActivity(const Pending& pending);

  const RankContext rank_;
  const ModelConfig config_;
  const StageOptions options_;
  StageWeights weights_;
  size_t last_owner_ = 0;  // in weights_.layers; in the last stage it is the model's
  KvCache kv_cache_;
  ActivationPool pool_;
  Buffer rope_buffer_;
  RopeTable rope_;
  BlockTables block_tables_;
  WantedRows wanted_;  // of the step that is launched; every row without prefill_skip
  std::unique_ptr<OutputHead> output_head_;  // the last stage's
  std::unique_ptr<DecodeGraphs> graphs_;
  Timeline timeline_;

  // Steps so far; step i's record and event are element i % kMaxPending.
  uint64_t launched_ = 0, finished_ = 0;
  std::array<Pending, OutputHead::kMaxPending> pending_;
  std::array<std::unique_ptr<Event>, OutputHead::kMaxPending> done_;
};

}  // namespace polystrate
