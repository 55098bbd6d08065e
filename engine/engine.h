// Engine: rank 0 of one MPI world. Takes requests from any thread, decides every step (admission,
// preemption, stopping) on its own, and gives tokens back through TokenSinks.
//
// Life: constructed before the weights are read (kStarting, so that the server can answer
// NOT_SERVING); Run() on the main thread makes it kReady; BeginDrain() refuses new requests and
// lets Run() return when the running ones have ended or the time-out has passed.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine_stats.h"
#include "engine/queue_bound.h"
#include "engine/request.h"
#include "engine/stage_layout.h"
#include "engine/tokenizer_config.h"
#include "kernels/core/mutex.h"
#include "parallel/rank_table.h"
#include "parallel/topology.h"

namespace polystrate {

class ControlChannel;
class LiveRequest;
class PipelineStage;
class Scheduler;
class Tokenizer;
struct SampledToken;
struct ScoredToken;
struct StepPlan;
struct StepResult;

// The operator's choices and what follows from them; the same on every rank.
struct EngineOptions {
  ParallelConfig parallel;
  std::string model_id;                // as clients name it
  int32_t vocab_size = 0;              // from the model, like the next two
  std::vector<int32_t> eos_token_ids;  // any of them ends a sequence
  int64_t max_model_len = 0;           // tokens of prompt and output together
  int64_t block_size = 16;             // tokens of a KV block
  int64_t num_blocks = 0;              // KV blocks, the minimum over stages
  int64_t max_num_seqs = 64;           // sequences that run at once
  int64_t max_num_batched_tokens =
      512;                   // tokens of one step: longer prompts are prefilled in chunks
  bool prefix_cache = true;  // false: every request bypasses it
  // Plan a step while the one before runs, where that helps (PipelineStage::launches_ahead).
  bool async_scheduling = true;
  bool async_anywhere = false;  // for tests: and where it does not
  // What may be queued (QueueBound); a batch of prompts that are all known is queued whole.
  int64_t max_queued_requests = std::numeric_limits<int64_t>::max();
  int64_t max_queued_tokens = std::numeric_limits<int64_t>::max();
  absl::Duration drain_timeout = absl::Seconds(30);  // unless a drain says otherwise
  std::vector<StageLayout> stages;                   // [pp_size]; for who asks, as the next
  TokenizerConfig tokenizer_config;
};

// kDegraded: ready, but a step takes longer than it should.
enum class EngineState : uint8_t { kStarting, kReady, kDegraded, kDraining, kStopped };

struct EngineLoad {
  int64_t running_requests = 0;
  int64_t queued_requests = 0;  // outputs, like the running ones; the preempted among them
  int64_t used_blocks = 0;
  int64_t cached_blocks = 0;  // held by nobody; kept for prefixes until others need them
  int64_t total_blocks = 0;
  int64_t running_tokens = 0;      // tokens in the KV cache
  int64_t waiting_tokens = 0;      // prompt tokens of requests that were never scheduled
  int64_t prefill_batch_size = 0;  // sequences of the last plan whose prompt it computes
  int64_t decode_batch_size = 0;   // and that go on by a token; both 0 when nothing runs
};

class Engine {
 public:
  // `tokenizer` may be null (token-id input and output only) and must outlive the engine.
  Engine(const EngineOptions& options, const Tokenizer* tokenizer);
  ~Engine();

  // --- Any thread. ---

  // Accepts the request or says why not: INVALID_ARGUMENT names the field and its range;
  // RESOURCE_EXHAUSTED when it could never fit the KV cache, or, with a retry delay, when the queue
  // is full; ALREADY_EXISTS for a live request_id; UNAVAILABLE while draining; DEADLINE_EXCEEDED.
  // After OK the sink is told how each output ends (TokenSink).
  absl::Status Submit(GenerationRequest request, TokenSink* sink);
  // What Submit would answer the smallest request just now: to be asked before work is spent on
  // one.
  absl::Status CheckNow(absl::Time deadline) const;
  // Ends a live request with OnFinished(kCancelled) soon, and its id is free at once; NOT_FOUND
  // otherwise. With a sink, only if it is that sink's: the id may be another request's by now.
  absl::Status Cancel(const std::string& request_id, const TokenSink* sink = nullptr);
  void CancelAll();
  // Idempotent; the earliest deadline wins.
  void BeginDrain(absl::Duration timeout);
  // When the drain that has begun is over; InfiniteFuture before.
  absl::Time drain_deadline() const;
  // Ends every live request with `status` and refuses all others with it. Needs nothing of the
  // engine's thread, which may be stuck in a step for ever; if it is not, Run() returns.
  void FailAll(const absl::Status& status);
  void SetDegraded(bool degraded) { degraded_ = degraded; }

  EngineState state() const;
  // What every rank does. The engine tells it of its plans; a RankMonitor, of the ranks.
  RankTable& ranks() { return ranks_; }
  // Both of one moment, as of the last step or end of a request.
  EngineLoad load() const;
  EngineStats stats() const;
  const EngineOptions& options() const { return options_; }
  const Tokenizer* tokenizer() const { return tokenizer_; }

  // --- The main thread, which alone speaks MPI. ---

  // Serves until drained, then tells every rank to stop. `stage` is rank 0's own.
  void Run(ControlChannel& control, PipelineStage& stage);

 private:
  using Commands = std::vector<std::unique_ptr<LiveRequest>>;
  struct Identity {
    uint64_t id;
    const TokenSink* sink;
    absl::Time deadline;
  };

  absl::Status CheckNow(absl::Time deadline, const QueueLoad& more, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool LooksAhead(const PipelineStage& stage);
  static void FinishSteps(ControlChannel& control, PipelineStage& stage, int but);
  void WaitForCommands();
  bool TakeCommands();
  bool HasCommands() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<StepPlan> MakePlan();
  void Start(std::unique_ptr<LiveRequest> started) ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void ExpireDeadlines() ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void Cancel(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  // By its own id, not a sequence's.
  LiveRequest* Find(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void Commit(const StepResult& result);
  void CommitScore(const ScoredToken& score, absl::Span<const TokenLogProb> candidates)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void CommitSample(const SampledToken& sample, absl::Span<const TokenLogProb> candidates)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void EndOutput(LiveRequest& live, int32_t output, Finished end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void Fail(uint64_t id, const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  std::unique_ptr<LiveRequest> Release(uint64_t id, bool keep_cache = true)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void CountScheduled(const StepPlan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);
  void PublishLoad() ABSL_EXCLUSIVE_LOCKS_REQUIRED(turn_);

  const EngineOptions options_;
  const Tokenizer* const tokenizer_;
  std::atomic<EngineState> state_{EngineState::kStarting};
  std::atomic<bool> degraded_{false};
  std::atomic<uint64_t> next_id_{1};
  RankTable ranks_;

  mutable Mutex mutex_;
  Commands submitted_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> cancelled_ ABSL_GUARDED_BY(mutex_);
  // By request_id: all that live and are not cancelled.
  absl::flat_hash_map<std::string, Identity> identities_ ABSL_GUARDED_BY(mutex_);
  QueueBound queue_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);  // what new requests get while draining
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  EngineLoad load_ ABSL_GUARDED_BY(mutex_);  // without what is in queue_
  EngineStats published_stats_ ABSL_GUARDED_BY(mutex_);

  // Taken by the engine's thread for all it does but computing and waiting, so that FailAll() can
  // do its work for it. Before mutex_ where both are taken.
  Mutex turn_;
  std::unique_ptr<Scheduler> scheduler_ ABSL_GUARDED_BY(turn_);
  absl::flat_hash_map<uint64_t, std::unique_ptr<LiveRequest>> live_
      ABSL_GUARDED_BY(turn_);  // by id
  // Of live_; finite ones.
  absl::btree_set<std::pair<absl::Time, uint64_t>> deadlines_ ABSL_GUARDED_BY(turn_);
  // Sequences of the last plan.
  int64_t prefill_batch_size_ ABSL_GUARDED_BY(turn_) = 0;
  int64_t decode_batch_size_ ABSL_GUARDED_BY(turn_) = 0;
  // When the result came that is being committed.
  int64_t commit_ns_ ABSL_GUARDED_BY(turn_) = 0;
  EngineStats stats_ ABSL_GUARDED_BY(turn_);

  int in_flight_ = 0;  // plans; only the engine's thread
};

}  // namespace polystrate
