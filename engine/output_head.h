// OutputHead: the end of the last stage: logits of the rows that are sampled or scored, and what is
// drawn from them. Its operators are enqueued; their results land in memory of its own, from which
// they are taken when the stream has come so far.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/activations.h"
#include "engine/model_config.h"
#include "engine/rank_context.h"
#include "engine/step_plan.h"
#include "engine/wanted_rows.h"
#include "engine/weights.h"

namespace polystrate {

class OutputHead {
 public:
  // Steps that may be enqueued and not taken yet.
  static constexpr int kMaxPending = 2;

  // `weights` and `scratch` must outlive it. Takes memory for steps of up to max_rows rows.
  static absl::StatusOr<std::unique_ptr<OutputHead>> Create(const RankContext& rank,
                                                            const ModelConfig& config,
                                                            const StageWeights& weights,
                                                            const Activations& scratch,
                                                            int64_t max_rows);

  // Logits of the given rows of `hidden`, into the first rows of the sampler's scratch.logits.
  //   hidden: [num_tokens, hidden_size] float32; rows: [n] int32, n <= scratch.max_logit_rows().
  void ComputeLogits(const Tensor& hidden, const Tensor& rows);

  // Every rank of the stage calls one of the two for each step. The plan's scores and samples,
  // whose rows of `hidden` are where `wanted` has them.
  void Run(const StepPlan& plan, const WantedRows& wanted, const Tensor& hidden);
  // The plan's samples, whose logits lie in scratch.logits in this order.
  void SampleFromLogits(const StepPlan& plan);

  // The sampler: what became of the oldest step not taken, which the stream has passed.
  StepResult Take();

  // Where the next step finds what the last plan with `feed` drew: [max_rows] int32 on the stream's
  // device, on every rank of the stage.
  const Tensor& drawn() const { return drawn_; }

 private:
  // What a step's results are about, and where they land.
  struct Pending {
    struct Point {
      uint64_t sequence_id;
      int64_t position;
    };
    uint64_t step_id = 0;
    std::vector<Point> scored;
    std::vector<Point> sampled;
    ScoreResult* scores = nullptr;    // [max_rows]
    SampleResult* samples = nullptr;  // [max_rows]
  };

  OutputHead(const RankContext& rank, const ModelConfig& config, const StageWeights& weights,
             const Activations& scratch);
  Pending& Begin(const StepPlan& plan);
  void Score(const StepPlan& plan, const WantedRows& wanted, const Tensor& hidden,
             const Pending& pending);
  // Samples [begin, begin + n) of the plan from the first n rows of logits.
  void Sample(const StepPlan& plan, size_t begin, size_t n, const Pending& pending);
  void ShareDrawn(const StepPlan& plan);

  const RankContext rank_;
  const ModelConfig& config_;
  const StageWeights& weights_;
  const Activations& scratch_;
  Buffer results_;
  Buffer drawn_buffer_;
  Tensor drawn_;
  std::array<Pending, kMaxPending> pending_;
  uint64_t begun_ = 0, taken_ = 0;  // steps so far
  // Of the rows whose logits are computed at a time.
  std::vector<int32_t> rows_;
  std::vector<ScoreRow> score_rows_;
  std::vector<SampleRow> sample_rows_;
};

}  // namespace polystrate
