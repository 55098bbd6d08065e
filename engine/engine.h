// Engine: rank 0 of one MPI world. Takes requests from any thread, decides every step (admission,
// preemption, stopping) on its own, and gives tokens back through TokenSinks.
//
// Life: constructed before the weights are read (kStarting, so that the server can answer
// NOT_SERVING); Run() on the main thread makes it kReady; BeginDrain() refuses new requests and
// lets Run() return when the running ones have ended or the time-out has passed.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "parallel/topology.h"

namespace polystrate {

class ControlChannel;
class PipelineStage;
class Scheduler;
class Tokenizer;
struct StepResult;

// The operator's choices and what follows from them; the same on every rank.
struct EngineOptions {
  ParallelConfig parallel;
  std::string model_id;    // as clients name it
  int32_t vocab_size = 0;  // from the model, like the next two
  int32_t eos_token_id = -1;
  int64_t max_model_len = 0;  // tokens of prompt and output together
  int64_t block_size = 16;    // tokens of a KV block
  int64_t num_blocks = 0;     // KV blocks, the minimum over stages
  int64_t max_num_seqs = 64;  // sequences that run at once
  int64_t max_num_batched_tokens =
      512;  // tokens of one step: longer prompts are prefilled in chunks
};

enum class EngineState : uint8_t { kStarting, kReady, kDraining, kStopped };

struct EngineLoad {
  int64_t running_requests = 0;
  int64_t queued_requests = 0;
  int64_t used_blocks = 0;
  int64_t total_blocks = 0;
  int64_t running_tokens = 0;  // tokens in the KV cache
  int64_t waiting_tokens = 0;  // prompt tokens of queued requests
};

class Engine {
 public:
  // `tokenizer` may be null (token-id input and output only) and must outlive the engine.
  Engine(const EngineOptions& options, const Tokenizer* tokenizer);
  ~Engine();

  // --- Any thread. ---

  // Accepts the request or says why not: INVALID_ARGUMENT names the field and its range;
  // RESOURCE_EXHAUSTED when it could never fit the KV cache; ALREADY_EXISTS for a live request_id;
  // UNAVAILABLE while draining. After OK the sink gets exactly one OnFinished or OnError.
  absl::Status Submit(GenerationRequest request, TokenSink* sink);
  // Ends a live request with OnFinished(kCancelled) soon; NOT_FOUND otherwise.
  absl::Status Cancel(const std::string& request_id);
  void CancelAll();
  // Idempotent; the earliest deadline wins.
  void BeginDrain(absl::Duration timeout);

  EngineState state() const { return state_.load(); }
  EngineLoad load() const;
  const EngineOptions& options() const { return options_; }
  const Tokenizer* tokenizer() const { return tokenizer_; }
};

}  // namespace polystrate
