#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/detokenizer.h"
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

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::Status CheckSampling(const SamplingParams& p) {
  if (!(p.temperature >= 0.0 && p.temperature <= 2.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", p.temperature, "; it must be in [0, 2]"));
  }
  if (!(p.top_p > 0.0 && p.top_p <= 1.0)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p is ", p.top_p, "; it must be in (0, 1]"));
  }
  if (p.top_k < -1) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", p.top_k, "; it must be -1 or 0 (all tokens) or at least 1"));
  }
  return absl::OkStatus();
}

absl::Status CheckPromptScores(const GenerationRequest& request) {
  const int64_t start = request.prompt_logprob_start;
  if (!request.prompt_logprobs && (start != 0 || request.prompt_candidates != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(start != 0 ? "prompt_logprob_start" : "prompt_candidates",
                     " is set without the prompt's log-probabilities being asked for"));
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (start < 0 || start >= prompt) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_logprob_start is ", start,
                                                   "; the prompt has ", prompt,
                                                   " tokens, so it must be in [0, ", prompt, ")"));
  }
  if (request.prompt_candidates < 0 || request.prompt_candidates > kMaxCandidates) {
    return absl::InvalidArgumentError(absl::StrCat("prompt_candidates: top_n is ",
                                                   request.prompt_candidates,
                                                   "; it must be in [0, ", kMaxCandidates, "]"));
  }
  return absl::OkStatus();
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

SampleRow MakeSampleRow(const SamplingParams& p) {
  SampleRow row;
  row.temperature = static_cast<float>(p.temperature);
  row.top_k = std::max(p.top_k, 0);
  row.top_p = static_cast<float>(p.top_p);
  row.seed = p.seed.has_value() ? *p.seed : RandomSeed();
  return row;
}

}  // namespace

struct Engine::LiveRequest {
  uint64_t id = 0;
  GenerationRequest request;
  TokenSink* sink = nullptr;
  int64_t max_tokens = 0;
  int64_t num_generated = 0;
  std::vector<PromptScore> prompt_scores;  // logprob is NaN until scored
  int64_t num_unscored = 0;
  std::unique_ptr<Detokenizer> detokenizer;  // null without a tokenizer

  RequestUsage usage() const {
    return {static_cast<int64_t>(request.prompt.size()), num_generated};
  }
};

Engine::Engine(const EngineOptions& options, const Tokenizer* tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      scheduler_(std::make_unique<Scheduler>(MakeSchedulerOptions(options))) {
  load_.total_blocks = options.num_blocks;
}

Engine::~Engine() = default;

absl::Status Engine::CheckPrompt(const GenerationRequest& request) const {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0)
    return absl::InvalidArgumentError("the prompt is empty; it needs a token at least");
  for (int32_t token : request.prompt) {
    if (token >= 0 && token < options_.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt token id ", token, " is not in the vocabulary, [0, ", options_.vocab_size, ")"));
  }
  return CheckPromptScores(request);
}

absl::StatusOr<int64_t> Engine::Admit(const GenerationRequest& request) const {
  RETURN_IF_ERROR(CheckSampling(request.sampling));
  RETURN_IF_ERROR(CheckPrompt(request));
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t smallest = request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens.has_value() && *request.max_tokens < smallest) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", *request.max_tokens, "; it must be at least ", smallest));
  }
  const bool generates = request.max_tokens.value_or(1) > 0;
  const int64_t longest = options_.max_model_len + (generates ? -1 : 1);
  if (prompt > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", prompt, " tokens; the context is ", options_.max_model_len,
                     generates ? ", of which a generated token needs one"
                               : "; one more may be scored, as the last is not computed"));
  }
  const int64_t context_left = std::max<int64_t>(options_.max_model_len - prompt, 0);
  // The last token of a sequence is never computed, so it needs no place in the cache.
  const int64_t cache = options_.num_blocks * options_.block_size;
  const int64_t cache_left = cache - prompt + 1;
  const int64_t wanted = std::min(request.max_tokens.value_or(1), context_left);
  if (wanted > cache_left) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the request needs ", prompt + wanted - 1,
        " tokens of KV cache at its end and the whole cache has ", cache,
        "; it can never run here. Ask for fewer tokens or start the engine with more --kv_memory"));
  }
  return std::min({request.max_tokens.value_or(context_left), context_left, cache_left});
}

absl::Status Engine::Submit(GenerationRequest request, TokenSink* sink) {
  ASSIGN_OR_RETURN(const int64_t max_tokens, Admit(request));
  auto live = std::make_unique<LiveRequest>();
  live->sink = sink;
  live->max_tokens = max_tokens;
  if (request.prompt_logprobs) {
    const int64_t prompt = static_cast<int64_t>(request.prompt.size());
    live->prompt_scores.resize(prompt - request.prompt_logprob_start);
    live->num_unscored = prompt - std::max<int64_t>(request.prompt_logprob_start, 1);
  }
  if (tokenizer_ != nullptr) {
    live->detokenizer =
        std::make_unique<Detokenizer>(*tokenizer_, /*skip_special_tokens=*/true, request.prompt);
  }

  MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the engine is draining and takes no new requests");
  live->id = next_id_++;
  if (request.request_id.empty()) request.request_id = absl::StrCat("polystrate-", live->id);
  if (!identities_.emplace(request.request_id, Identity{live->id, sink}).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id \"", request.request_id, "\" is that of a live request"));
  }
  live->request = std::move(request);
  ++load_.queued_requests;
  load_.waiting_tokens += static_cast<int64_t>(live->request.prompt.size());
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
  for (uint64_t id : cancelled) {
    if (live_.contains(id)) Finish(id, {.reason = FinishReason::kCancelled});
  }
  while (drain_expired && !live_.empty()) {
    Fail(live_.begin()->first, absl::UnavailableError("the engine is shutting down"));
  }
  return !(draining && live_.empty());
}

void Engine::Start(std::unique_ptr<LiveRequest> live) {
  const uint64_t id = live->id;
  const bool nothing_to_do = live->max_tokens == 0 && live->num_unscored == 0;
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->tokens = live->request.prompt;
  sequence->prompt_len = static_cast<int64_t>(sequence->tokens.size());
  sequence->sampling = MakeSampleRow(live->request.sampling);
  sequence->sample = live->max_tokens > 0;
  sequence->score_begin = sequence->prompt_len - live->num_unscored;
  sequence->num_candidates = static_cast<int32_t>(live->request.prompt_candidates);
  if (live->request.prompt_logprobs && live->num_unscored == 0) {
    live->sink->OnPrompt(live->prompt_scores);  // of a prompt of one token
  }
  scheduler_->Add(std::move(sequence));
  live_.emplace(id, std::move(live));
  if (nothing_to_do) Finish(id, {.reason = FinishReason::kLength});
}

void Engine::Commit(const StepResult& result) {
  absl::Span<const TokenLogProb> candidates = result.candidates;
  for (const ScoredToken& score : result.scores) {
    CommitScore(score, candidates.first(score.num_candidates));
    candidates.remove_prefix(score.num_candidates);
  }
  for (const SampledToken& sample : result.samples) CommitSample(sample);
}

void Engine::CommitScore(const ScoredToken& score, absl::Span<const TokenLogProb> candidates) {
  auto found = live_.find(score.sequence_id);
  if (found == live_.end()) return;
  LiveRequest& live = *found->second;
  PromptScore& known = live.prompt_scores[score.position - live.request.prompt_logprob_start];
  if (!std::isnan(known.logprob)) return;  // scored before a preemption
  if (std::isnan(score.logprob)) {
    return Fail(live.id, absl::InternalError("the model gave logits that are not finite"));
  }
  known = {score.logprob, score.rank, {candidates.begin(), candidates.end()}};
  if (--live.num_unscored > 0) return;
  live.sink->OnPrompt(live.prompt_scores);
  if (live.max_tokens == 0) Finish(live.id, {.reason = FinishReason::kLength});
}

void Engine::CommitSample(const SampledToken& sample) {
  auto found = live_.find(sample.sequence_id);
  if (found == live_.end()) return;
  LiveRequest& live = *found->second;
  if (sample.token_id < 0) {
    return Fail(live.id, absl::InternalError("the model gave logits that are not finite"));
  }
  if (!scheduler_->Append(live.id, sample.position, sample.token_id)) return;
  ++live.num_generated;

  const bool eos = !live.request.ignore_eos && Contains(options_.eos_token_ids, sample.token_id);
  const bool stop = eos || Contains(live.request.stop_token_ids, sample.token_id);
  TokenInfo token{sample.token_id, sample.logprob, ""};
  if (!stop && live.detokenizer != nullptr) token.text = live.detokenizer->Append(sample.token_id);
  live.sink->OnToken(token);
  if (stop) {
    Finish(
        live.id,
        {.reason = FinishReason::kStop, .stop_token_id = sample.token_id, .stopped_by_eos = eos});
  } else if (live.num_generated >= live.max_tokens) {
    Finish(live.id, {.reason = FinishReason::kLength});
  }
}

// Takes the request out of every table; its blocks are free from here on.
std::unique_ptr<Engine::LiveRequest> Engine::Release(uint64_t id) {
  auto found = live_.find(id);
  CHECK(found != live_.end());
  std::unique_ptr<LiveRequest> live = std::move(found->second);
  live_.erase(found);
  scheduler_->Remove(id);
  PublishLoad();
  MutexLock lock(&mutex_);
  identities_.erase(live->request.request_id);
  return live;
}

void Engine::Finish(uint64_t id, Finished finished) {
  const std::unique_ptr<LiveRequest> live = Release(id);
  finished.usage = live->usage();
  if (live->detokenizer != nullptr) finished.text = live->detokenizer->Flush();
  live->sink->OnFinished(finished);
}

void Engine::Fail(uint64_t id, const absl::Status& status) { Release(id)->sink->OnError(status); }

void Engine::PublishLoad() {
  EngineLoad load;
  load.running_requests = scheduler_->num_running();
  load.queued_requests = scheduler_->num_waiting();
  load.used_blocks = scheduler_->blocks().num_used();
  load.total_blocks = scheduler_->blocks().num_blocks();
  for (const auto& [id, live] : live_) {
    const Sequence* sequence = scheduler_->Find(id);
    load.running_tokens += sequence->num_scheduled;
    load.waiting_tokens += sequence->num_unscheduled();
  }
  MutexLock lock(&mutex_);
  load.queued_requests += static_cast<int64_t>(submitted_.size());
  for (const auto& live : submitted_) {
    load.waiting_tokens += static_cast<int64_t>(live->request.prompt.size());
  }
  load_ = load;
}

}  // namespace polystrate
