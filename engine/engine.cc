#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/admission.h"
#include "engine/live_request.h"
#include "engine/pipeline_stage.h"
#include "engine/scheduler.h"
#include "engine/step_plan.h"
#include "kernels/core/status.h"
#include "parallel/control_channel.h"

namespace polystrate {
namespace {

SchedulerOptions MakeSchedulerOptions(const EngineOptions& options) {
  SchedulerOptions scheduler;
  scheduler.num_blocks = options.num_blocks;
  scheduler.block_size = options.block_size;
  scheduler.max_num_seqs = options.max_num_seqs;
  scheduler.max_num_batched_tokens = options.max_num_batched_tokens;
  scheduler.pp_size = options.parallel.pp_size;
  return scheduler;
}

}  // namespace

Engine::Engine(const EngineOptions& options, const Tokenizer* tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      scheduler_(std::make_unique<Scheduler>(MakeSchedulerOptions(options))) {
  load_.total_blocks = options.num_blocks;
}

Engine::~Engine() = default;

absl::Status Engine::Submit(GenerationRequest request, TokenSink* sink) {
  ASSIGN_OR_RETURN(const int64_t max_tokens, Admit(request, options_, tokenizer_ != nullptr));
  const uint64_t id = next_id_++;
  if (request.request_id.empty()) request.request_id = absl::StrCat("polystrate-", id);
  auto live = std::make_unique<LiveRequest>(id, std::move(request), max_tokens, sink, tokenizer_,
                                            options_.eos_token_ids);

  MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the engine is draining and takes no new requests");
  const std::string& request_id = live->request().request_id;
  if (!identities_.emplace(request_id, Identity{id, sink}).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", request_id, "\" is that of a live request"));
  }
  ++load_.queued_requests;
  load_.waiting_tokens += live->num_prompt_tokens();
  submitted_.push_back(std::move(live));
  return absl::OkStatus();
}

absl::Status Engine::Cancel(const std::string& request_id, const TokenSink* sink) {
  MutexLock lock(&mutex_);
  auto found = identities_.find(request_id);
  const bool live = found != identities_.end() && (sink == nullptr || found->second.sink == sink);
  if (!live) {
    return absl::NotFoundError(absl::StrCat("no live request has the id \"", request_id, "\""));
  }
  cancelled_.push_back(found->second.id);
  return absl::OkStatus();
}

void Engine::CancelAll() {
  MutexLock lock(&mutex_);
  for (const auto& [request_id, live] : identities_) cancelled_.push_back(live.id);
}

void Engine::BeginDrain(absl::Duration timeout) {
  MutexLock lock(&mutex_);
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, absl::Now() + timeout);
  if (state_ == EngineState::kReady) state_ = EngineState::kDraining;
}

EngineLoad Engine::load() const {
  MutexLock lock(&mutex_);
  return load_;
}

void Engine::Run(ControlChannel& control, PipelineStage& stage) {
  {
    MutexLock lock(&mutex_);
    state_ = draining_ ? EngineState::kDraining : EngineState::kReady;
  }
  while (TakeCommands()) {
    while (in_flight_ <
           options_.parallel.pp_size) {  // a plan for each stage keeps every stage busy
      const std::optional<StepPlan> plan = scheduler_->Schedule();
      if (!plan.has_value()) break;
      control.BroadcastPlan(plan->ToBytes());
      ++in_flight_;
      if (const auto result = stage.Run(*plan)) control.SendResult(result->ToBytes());
    }
    PublishLoad();  // before the tokens: who has one sees its request running
    if (in_flight_ > 0) {
      Commit(StepResult::FromBytes(control.ReceiveResult()));
      --in_flight_;
    }
  }
  for (; in_flight_ > 0; --in_flight_) control.ReceiveResult();  // of requests that are gone
  StepPlan stop;
  stop.stop = true;
  control.BroadcastPlan(stop.ToBytes());
  state_ = EngineState::kStopped;
}

bool Engine::HasCommands() const { return !submitted_.empty() || !cancelled_.empty() || draining_; }

// Takes what other threads have asked for; waits for it when there is nothing else to do. False
// when the engine is drained.
bool Engine::TakeCommands() {
  Commands submitted;
  std::vector<uint64_t> cancelled;
  bool draining = false;
  bool drain_expired = false;
  {
    MutexLock lock(&mutex_);
    if (live_.empty() && in_flight_ == 0) {
      mutex_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return HasCommands(); });
    }
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    draining = draining_;
    drain_expired = draining_ && absl::Now() >= drain_deadline_;
  }
  for (auto& live : submitted) Start(std::move(live));
  for (uint64_t id : cancelled) Cancel(id);
  while (drain_expired && !live_.empty()) {
    Fail(live_.begin()->first, absl::UnavailableError("the engine is shutting down"));
  }
  return !(draining && live_.empty());
}

void Engine::Start(std::unique_ptr<LiveRequest> started) {
  LiveRequest& live = *started;
  live.TellKnownScores();
  scheduler_->Add(live.MakeSequence(0));
  live_.emplace(live.id(), std::move(started));
  if (live.nothing_to_do()) EndOutput(live, 0, {.reason = FinishReason::kLength});
}

void Engine::Cancel(uint64_t id) {
  LiveRequest* live = Find(id);
  if (live == nullptr) return;  // it has ended meanwhile
  const int32_t last = live->request().num_sequences - 1;
  for (int32_t output = 0; output <= last; ++output) {
    // The last output to end takes the request with it.
    if (live_.contains(id) && !live->has_ended(output)) {
      EndOutput(*live, output, {.reason = FinishReason::kCancelled});
    }
  }
}

LiveRequest* Engine::Find(uint64_t id) {
  auto found = live_.find(id);
  return found == live_.end() ? nullptr : found->second.get();
}

void Engine::Commit(const StepResult& result) {
  absl::Span<const TokenLogProb> candidates = result.candidates;
  for (const ScoredToken& score : result.scores) {
    CommitScore(score, candidates.first(score.num_candidates));
    candidates.remove_prefix(score.num_candidates);
  }
  for (const SampledToken& sample : result.samples) {
    CommitSample(sample, candidates.first(sample.num_candidates));
    candidates.remove_prefix(sample.num_candidates);
  }
}

void Engine::CommitScore(const ScoredToken& score, absl::Span<const TokenLogProb> candidates) {
  LiveRequest* live = Find(RequestOf(score.sequence_id));
  if (live == nullptr) return;
  const absl::Status status = live->AddScore(score, candidates);
  if (!status.ok()) return Fail(live->id(), status);
  if (live->nothing_to_do()) EndOutput(*live, 0, {.reason = FinishReason::kLength});
}

void Engine::CommitSample(const SampledToken& sample, absl::Span<const TokenLogProb> candidates) {
  LiveRequest* live = Find(RequestOf(sample.sequence_id));
  if (live == nullptr) return;
  if (sample.token_id < 0) {
    return Fail(live->id(),
                absl::InternalError(std::isnan(sample.logprob)
                                        ? "the model gave logits that are not finite"
                                        : "min_tokens leaves no token: those that do not stop the "
                                          "output have no probability"));
  }
  if (!scheduler_->Append(sample.sequence_id, sample.position, sample.token_id)) return;
  const int32_t output = OutputOf(sample.sequence_id);
  if (output == 0 && live->num_tokens(0) == 0) {
    for (int32_t other = 1; other < live->request().num_sequences; ++other) {
      scheduler_->Add(live->MakeSequence(other));
    }
  }
  if (auto end = live->AddToken(output, sample, candidates))
    EndOutput(*live, output, *std::move(end));
}

// `live` is gone afterwards if this was its last output.
void Engine::EndOutput(LiveRequest& live, int32_t output, Finished end) {
  end = live.End(output, std::move(end));
  if (!live.done()) {
    const uint64_t sequence = SequenceId(live.id(), output);
    if (scheduler_->Find(sequence) != nullptr) scheduler_->Remove(sequence);
    return live.sink().OnFinished(end);
  }
  Release(live.id())->sink().OnFinished(end);
}

void Engine::Fail(uint64_t id, const absl::Status& status) { Release(id)->sink().OnError(status); }

// Takes the request out of every table; its blocks are free from here on.
std::unique_ptr<LiveRequest> Engine::Release(uint64_t id) {
  auto found = live_.find(id);
  CHECK(found != live_.end());
  std::unique_ptr<LiveRequest> live = std::move(found->second);
  live_.erase(found);
  for (int32_t output = 0; output < live->request().num_sequences; ++output) {
    const uint64_t sequence = SequenceId(id, output);
    if (scheduler_->Find(sequence) != nullptr) scheduler_->Remove(sequence);
  }
  PublishLoad();
  MutexLock lock(&mutex_);
  identities_.erase(live->request().request_id);
  return live;
}

void Engine::PublishLoad() {
  EngineLoad load;
  load.running_requests = scheduler_->num_running();
  load.queued_requests = scheduler_->num_waiting();
  load.used_blocks = scheduler_->blocks().num_used();
  load.total_blocks = scheduler_->blocks().num_blocks();
  for (const auto& [id, live] : live_) {
    for (int32_t output = 0; output < live->request().num_sequences; ++output) {
      const Sequence* sequence = scheduler_->Find(SequenceId(id, output));
      if (sequence == nullptr) continue;
      load.running_tokens += sequence->num_scheduled;
      load.waiting_tokens += sequence->num_unscheduled();
    }
  }
  MutexLock lock(&mutex_);
  load.queued_requests += static_cast<int64_t>(submitted_.size());
  for (const auto& live : submitted_) {
    load.waiting_tokens += live->num_prompt_tokens();
  }
  load_ = load;
}

}  // namespace polystrate
