#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/admission.h"
#include "engine/live_request.h"
#include "engine/pipeline_stage.h"
#include "engine/retry_delay.h"
#include "engine/scheduler.h"
#include "engine/step_plan.h"
#include "engine/timeline.h"
#include "kernels/core/status.h"
#include "parallel/control_channel.h"

namespace polystrate {
namespace {

// When an engine that leaves in order says so, it is for now: there may be another.
constexpr absl::Duration kElsewhere = absl::Seconds(1);

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
      ranks_(options.parallel),
      queue_({options.max_queued_requests, options.max_queued_tokens}),
      scheduler_(std::make_unique<Scheduler>(MakeSchedulerOptions(options))) {
  load_.total_blocks = options.num_blocks;
}

Engine::~Engine() = default;

absl::Status Engine::Submit(GenerationRequest request, TokenSink* sink) {
  ASSIGN_OR_RETURN(const int64_t max_tokens, Admit(request, options_, tokenizer_ != nullptr));
  const uint64_t id = next_id_++;
  if (request.request_id.empty()) request.request_id = absl::StrCat("polystrate-", id);
  request.bypass_prefix_cache |= !options_.prefix_cache;
  auto live = std::make_unique<LiveRequest>(id, std::move(request), max_tokens, sink, tokenizer_,
                                            options_.eos_token_ids);
  RETURN_IF_ERROR(live->Resume());

  const absl::Time now = absl::Now();
  const Identity identity{id, sink, live->request().deadline};
  const std::string& request_id = live->request().request_id;
  MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckNow(identity.deadline, live->queued(), now));
  const auto [found, inserted] = identities_.try_emplace(request_id, identity);
  // Of one whose deadline has passed the client knows already that it has ended.
  if (!inserted && found->second.deadline > now) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", request_id, "\" is that of a live request"));
  }
  found->second = identity;
  queue_.Add(live->queued(), now);
  submitted_.push_back(std::move(live));
  return absl::OkStatus();
}

absl::Status Engine::CheckNow(absl::Time deadline) const {
  MutexLock lock(&mutex_);
  return CheckNow(deadline, {.requests = 1, .tokens = 1}, absl::Now());
}

absl::Status Engine::CheckNow(absl::Time deadline, const QueueLoad& more, absl::Time now) const {
  if (draining_) return refusal_;
  if (deadline <= now) {
    return absl::DeadlineExceededError("the deadline had passed when the request arrived");
  }
  return queue_.Check(more, now);
}

absl::Status Engine::Cancel(const std::string& request_id, const TokenSink* sink) {
  MutexLock lock(&mutex_);
  auto found = identities_.find(request_id);
  const bool live = found != identities_.end() && (sink == nullptr || found->second.sink == sink);
  if (!live) {
    return absl::NotFoundError(absl::StrCat("no live request has the id \"", request_id, "\""));
  }
  cancelled_.push_back(found->second.id);
  identities_.erase(found);
  return absl::OkStatus();
}

void Engine::CancelAll() {
  MutexLock lock(&mutex_);
  for (const auto& [request_id, live] : identities_) cancelled_.push_back(live.id);
  identities_.clear();
}

void Engine::BeginDrain(absl::Duration timeout) {
  MutexLock lock(&mutex_);
  if (!draining_) {
    refusal_ = WithRetryDelay(
        absl::UnavailableError("the engine is draining and takes no new requests"), kElsewhere);
  }
  draining_ = true;
  drain_deadline_ = std::min(drain_deadline_, absl::Now() + timeout);
  if (state_ == EngineState::kReady) state_ = EngineState::kDraining;
}

absl::Time Engine::drain_deadline() const {
  MutexLock lock(&mutex_);
  return drain_deadline_;
}

void Engine::FailAll(const absl::Status& status) {
  MutexLock turn(&turn_);
  Commands submitted;
  {
    MutexLock lock(&mutex_);
    draining_ = true;
    refusal_ = status;
    drain_deadline_ = std::min(drain_deadline_, absl::Now());
    state_ = EngineState::kStopped;
    submitted.swap(submitted_);
  }
  for (auto& live : submitted) Start(std::move(live));
  while (!live_.empty()) Fail(live_.begin()->first, status);
}

EngineState Engine::state() const {
  const EngineState state = state_;
  return state == EngineState::kReady && degraded_ ? EngineState::kDegraded : state;
}

EngineLoad Engine::load() const {
  MutexLock lock(&mutex_);
  EngineLoad load = load_;
  load.queued_requests += queue_.load().requests;
  load.waiting_tokens += queue_.load().tokens;
  return load;
}

EngineStats Engine::stats() const {
  MutexLock lock(&mutex_);
  return published_stats_;
}

// Whether plans are made while another is in flight. With several stages they are so anyway.
bool Engine::LooksAhead(const PipelineStage& stage) {
  if (!options_.async_scheduling || options_.parallel.pp_size > 1) return false;
  if (!stage.launches_ahead() && !options_.async_anywhere) return false;
  MutexLock turn(&turn_);
  scheduler_->SetLookahead();
  return true;
}

// Of those that this rank's stage has launched, all but the last `but`.
void Engine::FinishSteps(ControlChannel& control, PipelineStage& stage, int but) {
  while (stage.num_pending() > but) {
    if (const auto result = stage.Finish()) control.SendResult(result->ToBytes());
  }
}

void Engine::Run(ControlChannel& control, PipelineStage& stage) {
  {
    MutexLock lock(&mutex_);
    state_ = draining_ ? EngineState::kDraining : EngineState::kReady;
  }
  const bool ahead = LooksAhead(stage);
  // A plan for each stage keeps every stage busy; one more, while the host is busy.
  const int max_in_flight = options_.parallel.pp_size + (ahead ? 1 : 0);
  while (TakeCommands()) {
    while (in_flight_ < max_in_flight) {
      const std::optional<StepPlan> plan = MakePlan();
      if (!plan.has_value()) break;
      control.BroadcastPlan(plan->ToBytes());
      ++in_flight_;
      stage.Launch(*plan);
      FinishSteps(control, stage, /*but=*/ahead || stage.launches_ahead() ? 1 : 0);
    }
    if (in_flight_ == 0) continue;
    FinishSteps(control, stage, /*but=*/ahead ? in_flight_ - 1 : 0);
    Commit(StepResult::FromBytes(control.ReceiveResult()));
    --in_flight_;
  }
  FinishSteps(control, stage, /*but=*/0);
  for (; in_flight_ > 0; --in_flight_) {  // of requests that are gone
    control.ReceiveResult();
    ranks_.PlanDone();
  }
  StepPlan stop;
  stop.stop = true;
  control.BroadcastPlan(stop.ToBytes());
  state_ = EngineState::kStopped;
}

bool Engine::HasCommands() const { return !submitted_.empty() || !cancelled_.empty() || draining_; }

// Waits for something to do.
void Engine::WaitForCommands() {
  {
    MutexLock turn(&turn_);
    if (!live_.empty() || in_flight_ > 0) return;
  }
  MutexLock lock(&mutex_);
  mutex_.Await([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return HasCommands(); });
}

// Takes what other threads have asked for. False when the engine is drained.
bool Engine::TakeCommands() {
  WaitForCommands();
  Commands submitted;
  std::vector<uint64_t> cancelled;
  bool draining = false;
  bool drain_expired = false;
  MutexLock turn(&turn_);
  {
    MutexLock lock(&mutex_);
    submitted.swap(submitted_);
    cancelled.swap(cancelled_);
    draining = draining_;
    drain_expired = draining_ && absl::Now() >= drain_deadline_;
  }
  for (auto& live : submitted) Start(std::move(live));
  ExpireDeadlines();
  for (uint64_t id : cancelled) Cancel(id);
  while (drain_expired && !live_.empty()) {
    Fail(live_.begin()->first,
         WithRetryDelay(absl::UnavailableError("the engine is shutting down"), kElsewhere));
  }
  return !(draining && live_.empty());
}

std::optional<StepPlan> Engine::MakePlan() {
  MutexLock turn(&turn_);
  std::optional<StepPlan> plan = scheduler_->Schedule();
  if (plan.has_value()) {
    ranks_.PlanSent(plan->step_id);
    CountScheduled(*plan);
  }
  PublishLoad();  // before the tokens: who has one sees its request running
  return plan;
}

void Engine::Start(std::unique_ptr<LiveRequest> started) {
  LiveRequest& live = *started;
  live.TellKnownScores();
  if (live.first() >= 0) scheduler_->Add(live.MakeSequence(live.first()));
  const absl::Time deadline = live.request().deadline;
  if (deadline != absl::InfiniteFuture()) deadlines_.emplace(deadline, live.id());
  live_.emplace(live.id(), std::move(started));
  for (Finished& end : live.TakeKnownEnds()) EndOutput(live, end.output_index, std::move(end));
}

void Engine::ExpireDeadlines() {
  if (deadlines_.empty()) return;
  const absl::Time now = absl::Now();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const uint64_t id = deadlines_.begin()->second;
    LiveRequest& live = *Find(id);
    const bool queued = live.times().first_scheduled == 0;
    Fail(id, absl::DeadlineExceededError(queued ? "the deadline passed while the request was queued"
                                                : absl::StrCat("the deadline passed after ",
                                                               live.usage().completion_tokens,
                                                               " tokens")));
  }
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
  MutexLock turn(&turn_);
  ranks_.PlanDone();
  commit_ns_ = Timeline::NowNs();
  scheduler_->Retire(result.step_id);
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
  if (live->nothing_to_do()) EndOutput(*live, live->first(), {.reason = FinishReason::kLength});
}

void Engine::CommitSample(const SampledToken& sample, absl::Span<const TokenLogProb> candidates) {
  // A step may have been planned before it was known that an output has ended, or has this token:
  // what comes of that is nobody's.
  if (sample.token_id < 0) {
    if (!scheduler_->Awaits(sample.sequence_id, sample.position)) return;
    return Fail(RequestOf(sample.sequence_id),
                absl::InternalError(std::isnan(sample.logprob)
                                        ? "the model gave logits that are not finite"
                                        : "min_tokens leaves no token: those that do not stop the "
                                          "output have no probability"));
  }
  if (!scheduler_->Append(sample.sequence_id, sample.position, sample.token_id)) return;
  LiveRequest* live = Find(RequestOf(sample.sequence_id));
  const int32_t output = OutputOf(sample.sequence_id);
  for (const int32_t due : live->TakeDue(output)) scheduler_->Add(live->MakeSequence(due));
  auto end = live->AddToken(output, sample, candidates);
  stats_.CountToken(commit_ns_, output, live->num_prompt_tokens(), &live->times());
  if (end.has_value()) EndOutput(*live, output, *std::move(end));
}

// `live` is gone afterwards if this was its last output.
void Engine::EndOutput(LiveRequest& live, int32_t output, Finished end) {
  if (output == live.first()) {
    live.set_num_cached_tokens(scheduler_->Find(SequenceId(live.id(), output))->num_cached_tokens);
  }
  end = live.End(output, std::move(end));
  if (!live.done()) {
    const uint64_t sequence = SequenceId(live.id(), output);
    if (scheduler_->Find(sequence) != nullptr) scheduler_->Remove(sequence);
    return live.sink().OnFinished(end);
  }
  end.queue_time = live.times().QueueTime();
  const RequestEnd how = end.reason == FinishReason::kStop     ? RequestEnd::kStop
                         : end.reason == FinishReason::kLength ? RequestEnd::kLength
                                                               : RequestEnd::kAbort;
  stats_.CountEnd(Timeline::NowNs(), how, *end.usage, live.times());
  Release(live.id())->sink().OnFinished(end);
}

void Engine::Fail(uint64_t id, const absl::Status& status) {
  LiveRequest& live = *Find(id);
  // A deadline is the client's own wish, as cancelling is.
  const RequestEnd end = absl::IsDeadlineExceeded(status) ? RequestEnd::kAbort : RequestEnd::kError;
  stats_.CountEnd(Timeline::NowNs(), end, live.usage(), live.times());
  // Whose logits were not finite has read or left K and V that are not.
  const bool keep_cache = !absl::IsInternal(status);
  Release(id, keep_cache)->sink().OnError(status);
}

// Takes the request out of every table and gives its blocks back.
std::unique_ptr<LiveRequest> Engine::Release(uint64_t id, bool keep_cache) {
  auto found = live_.find(id);
  CHECK(found != live_.end());
  std::unique_ptr<LiveRequest> live = std::move(found->second);
  live_.erase(found);
  for (int32_t output = 0; output < live->request().num_sequences; ++output) {
    const uint64_t sequence = SequenceId(id, output);
    if (scheduler_->Find(sequence) != nullptr) scheduler_->Remove(sequence, keep_cache);
  }
  deadlines_.erase({live->request().deadline, id});
  PublishLoad();
  MutexLock lock(&mutex_);
  if (live->queued().requests > 0) queue_.Remove(live->queued(), absl::Now());
  const auto found_id = identities_.find(live->request().request_id);
  if (found_id != identities_.end() && found_id->second.id == id) identities_.erase(found_id);
  return live;
}

void Engine::CountScheduled(const StepPlan& plan) {
  ++stats_.steps;
  decode_batch_size_ = scheduler_->num_decodes();
  prefill_batch_size_ = plan.num_seqs() - decode_batch_size_;
  if (scheduler_->admitted().empty()) return;
  const int64_t now = Timeline::NowNs();
  for (const uint64_t sequence : scheduler_->admitted()) {
    stats_.CountScheduled(now, &Find(RequestOf(sequence))->times());
  }
}

// What the scheduler has admitted leaves the queue in the same moment as it is seen running.
void Engine::PublishLoad() {
  QueueLoad admitted;
  for (const uint64_t sequence : scheduler_->TakeAdmitted()) {
    const QueueLoad left = Find(RequestOf(sequence))->LeaveQueue(OutputOf(sequence));
    admitted.requests += left.requests;
    admitted.tokens += left.tokens;
  }
  EngineLoad load;
  load.running_requests = scheduler_->num_running();
  load.queued_requests = scheduler_->num_preempted();
  load.used_blocks = scheduler_->blocks().num_used();
  load.cached_blocks = scheduler_->blocks().num_cached();
  load.total_blocks = scheduler_->blocks().num_blocks();
  load.running_tokens = scheduler_->num_running_tokens();
  if (load.running_requests > 0) {
    load.prefill_batch_size = prefill_batch_size_;
    load.decode_batch_size = decode_batch_size_;
  }
  stats_.preemptions = scheduler_->num_preemptions();
  stats_.prefix_cache_queries = scheduler_->num_prefix_queries();
  stats_.prefix_cache_hits = scheduler_->num_prefix_hits();
  stats_.evictions = scheduler_->blocks().num_evictions();
  MutexLock lock(&mutex_);
  if (admitted.requests > 0) queue_.Remove(admitted, absl::Now());
  load_ = load;
  published_stats_ = stats_;
}

}  // namespace polystrate
