// DecodeSession: a whole model with random weights in this process, decoding sequences whose cached
// context is random too, as the MLKV paper measures; prompts can be computed to time that. Steps
// are PipelineStage's, from StepPlans such as the scheduler makes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/block_pool.h"
#include "engine/model_config.h"
#include "engine/pipeline_stage.h"
#include "engine/step_plan.h"
#include "kernels/core/device.h"
#include "kernels/machine_limits.h"
#include "parallel/process_group.h"

namespace polystrate {

struct DecodeOptions {
  DType dtype = DType::kBFloat16;
  int64_t block_size = 16;
  int64_t kv_memory = 0;          // bytes of the KV pool
  int64_t sequence_len = 0;       // tokens that each sequence has blocks for; at most the model's
  int64_t max_sequences = 0;      // never run more at once; 0: as many as the pool admits
  int64_t max_prompt_tokens = 0;  // of one Prefill(), over all its sequences
};

class DecodeSession {
 public:
  // Takes the pool, fills it with random values and admits sequences until it refuses one.
  // INVALID_ARGUMENT when it admits none. `stream` must outlive the session.
  static absl::StatusOr<std::unique_ptr<DecodeSession>> Create(const ModelConfig& config,
                                                               const DecodeOptions& options,
                                                               Stream* stream);

  int64_t max_sequences() const { return static_cast<int64_t>(block_tables_.size()); }
  // From now on steps decode the first `num_sequences`, each with `context` tokens in the cache.
  void Begin(int64_t num_sequences, int64_t context);
  int64_t num_sequences() const { return plan_.num_seqs(); }
  // What the next step computes, one token of each sequence.
  const std::vector<int32_t>& tokens() const { return next_tokens_; }

  // Runs one step: every sequence gets its likeliest next token. Returns its seconds. With
  // `advance` the tokens are appended, else the next step is this one again.
  double Step(bool advance);

  // Computes prompts of `prompt_len` tokens for the first `num_sequences`, all in one step, and the
  // first token of each. Returns its seconds. Begin() comes before the next Step().
  double Prefill(int64_t num_sequences, int64_t prompt_len);

  // Seconds of the attention operator of each layer in the present step, [num_layers]: medians of
  // `repeats`. With a sweep, which empties the caches, it is called before each; without, all other
  // layers come before each, as in a step.
  std::vector<double> AttentionSeconds(int repeats, const std::function<void()>& sweep);

  // Bytes of the cache that one token of one sequence changes, counted in the cache itself: it is
  // filled with a pattern that no token writes, and one step is run. The cache's contents are lost.
  int64_t CountBytesWrittenPerToken();

  // --- From the shapes of what is loaded. ---
  // Of the cache, per token: what it takes, and what the layers of one step read, which is as much
  // for a reuser as for an owner.
  int64_t kv_resident_bytes() const;
  int64_t kv_read_bytes() const;
  // Weights that a step reads: all but the embedding, of which a row is.
  int64_t weight_bytes() const;
  // Operations of one token's step: in the matrices, of these in the K and V projections, and in
  // attention per token of context. Of a prompt, whose head runs for its last token alone.
  int64_t matrix_operations() const;
  double PrefillOperations(int64_t num_sequences, int64_t prompt_len) const;
  int64_t kv_projection_operations() const;
  int64_t attention_operations() const;

 private:
  DecodeSession(const ModelConfig& config, const DecodeOptions& options, Stream* stream);
  absl::Status TakeMemory();
  void FillPool(const Tensor& pattern);
  void MakePlan();
  void Launch();
  double RunPlan(std::optional<StepResult>* result);

  const ModelConfig config_;
  const DecodeOptions options_;
  Stream& stream_;
  ProcessGroups groups_ = MakeSelfGroups();
  std::unique_ptr<PipelineStage> stage_;
  std::vector<std::vector<int32_t>> block_tables_;  // of every sequence admitted
  bool told_blocks_ = false;                        // to the stage
  int64_t context_ = 0;
  std::vector<int32_t> next_tokens_;  // [num_sequences]
  StepPlan plan_;
};

}  // namespace polystrate
