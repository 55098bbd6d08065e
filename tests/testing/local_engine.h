// A whole engine inside the test: every rank a thread, over thread communicators. Fast, and what
// the thread sanitizer watches.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"
#include "engine/model_config.h"
#include "engine/request.h"
#include "engine/timeline.h"
#include "kernels/core/dtype.h"
#include "parallel/process_group.h"

namespace polystrate {

struct LocalEngineOptions {
  int tp_size = 1;
  int pp_size = 1;
  std::vector<int> stages;  // empty: planned by cost
  DType dtype = DType::kFloat32;
  std::optional<ReuseKeys> reuse_keys;
  int64_t block_size = 16;
  int64_t num_blocks = 64;
  int64_t max_num_seqs = 64;
  int64_t max_num_batched_tokens = 512;
  int64_t max_queued_requests = std::numeric_limits<int64_t>::max();
  int64_t max_queued_tokens = std::numeric_limits<int64_t>::max();
  bool prefill_skip = true;
  bool prefix_cache = true;
  int num_threads = 1;                   // of each rank
  DeviceType device = DeviceType::kCpu;  // kCuda: all ranks on GPU 0
  bool graphs = true;
  bool async_scheduling = true;
  bool async_anywhere = false;  // and not only where it helps
  bool nccl = false;            // GPUs' tensors go over NCCL, which must be linked
};

struct LocalOutput {
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
  std::vector<int32_t> ranks;  // of token_ids, like logprobs and candidates
  std::vector<std::vector<TokenLogProb>> candidates;
  std::vector<PromptScore> prompt_scores;
  std::vector<float> prompt_logprobs;  // of prompt_scores
  FinishReason reason = FinishReason::kLength;
  absl::Status status;
  std::optional<RequestUsage> usage;  // with the output that ended last
  std::vector<LocalOutput> others;    // of num_sequences, from the second on
};

// An engine whose ranks are threads. CHECK-fails when the model cannot be loaded.
class LocalEngine {
 public:
  LocalEngine(const std::string& model_dir, const LocalEngineOptions& options);
  ~LocalEngine();  // stops

  Engine& engine() { return *engine_; }
  // Loads the weights and runs. What was submitted before is there when the first step is made.
  void Start();
  // Waits for what is live, then ends every rank.
  void Stop();
  // By rank; complete after Stop().
  const std::vector<std::vector<StageSpan>>& timelines() const { return timelines_; }

 private:
  struct Plan;
  void PlayRank(int rank, ProcessGroups groups);

  const std::string model_dir_;
  const std::unique_ptr<const Plan> plan_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::vector<StageSpan>> timelines_;
  std::vector<std::thread> ranks_;
};

struct LocalRun {
  std::vector<LocalOutput> outputs;               // in the order of the requests
  std::vector<std::vector<StageSpan>> timelines;  // by rank
  EngineStats stats;
};

// Runs all requests at once to their end. CHECK-fails when the model cannot be loaded or a request
// refused.
LocalRun RunLocalEngine(const std::string& model_dir, const LocalEngineOptions& options,
                        const std::vector<GenerationRequest>& requests);

// Logits of every token of one prompt, computed in one step on one rank: [num_tokens][vocab_size].
std::vector<std::vector<float>> FullLogits(const std::string& model_dir,
                                           const std::vector<int32_t>& tokens,
                                           std::optional<ReuseKeys> reuse_keys = std::nullopt,
                                           DType dtype = DType::kFloat32);

// The same over ranks, threads here, or through the cache: `chunk` tokens a step, 0 for all at
// once.
struct LogitsOptions {
  std::optional<ReuseKeys> reuse_keys;
  DType dtype = DType::kFloat32;
  ParallelConfig parallel;
  int64_t chunk = 0;
  DeviceType device = DeviceType::kCpu;
};
std::vector<std::vector<float>> Logits(const std::string& model_dir,
                                       const std::vector<int32_t>& tokens,
                                       const LogitsOptions& options);

// `n` token ids below vocab_size, from a fixed generator.
std::vector<int32_t> RandomTokens(int64_t n, int64_t vocab_size, uint64_t seed);

}  // namespace polystrate
