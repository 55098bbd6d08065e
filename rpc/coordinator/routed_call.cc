#include "rpc/coordinator/routed_call.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/retry_delay.h"
#include "rpc/convert.h"
#include "rpc/coordinator/attempt_end.h"
#include "rpc/grpc_status.h"
#include "rpc/request_extra.h"
#include "rpc/trace_context.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// Who waits for an engine is told of one that comes; this is for what nobody tells.
constexpr absl::Duration kLookAgain = absl::Milliseconds(250);
// For an engine to answer that it aborts a request.
constexpr absl::Duration kAbortTimeout = absl::Seconds(10);
// A stream that breaks more often than engines die, as behind a bad proxy, goes on with pauses.
constexpr int kAtOnce = 8;
// Of an output without max_tokens, for routing.
constexpr int64_t kUsualOutput = 256;
// Who asks for more gets it, but does not make an engine look full by asking.
constexpr int64_t kLongOutput = 4096;
constexpr int64_t kBytesPerToken = 4;

std::atomic<uint64_t> num_calls{0};

// A request may be resumed already when it comes. What is wrong with that an engine says.
std::vector<ResumedOutput> WhatTheClientHad(const pb::GenerateRequest& request) {
  constexpr uint32_t kMost = 1 << 14;  // an engine takes no more
  const uint32_t outputs = std::clamp(request.sampling().num_sequences(), 1u, kMost);
  absl::StatusOr<RequestExtra> extra = ReadExtra(request.extra());
  if (extra.ok() && extra->resumed.size() == outputs) return std::move(extra->resumed);
  return std::vector<ResumedOutput>(outputs);
}

// For the log: what is no number an engine refuses.
int64_t PriorityOf(const CallTerms& terms) {
  int64_t priority = 0;
  for (const auto& [key, value] : terms.metadata) {
    if (key == "openengine-priority" && !absl::SimpleAtoi(value, &priority)) priority = 0;
  }
  return priority;
}

// The engine's stream is to end as an aborted one.
void ForwardAbort(Attempt& attempt) {
  struct Call {
    grpc::ClientContext context;
    pb::AbortRequest request;
    pb::AbortResponse response;
  };
  auto call = std::make_shared<Call>();
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + kAbortTimeout));
  call->request.set_request_id(attempt.upstream_id());
  attempt.lease().control().async()->Abort(&call->context, &call->request, &call->response,
                                           [call](const grpc::Status& /*status*/) {});
}

}  // namespace

RoutedCall::RoutedCall(CallRegistry& registry, grpc::CallbackServerContext* context,
                       pb::GenerateRequest request, CallTerms terms, std::string routing_key)
    : registry_(registry),
      number_(++num_calls),
      request_(std::move(request)),
      terms_(std::move(terms)),
      routing_key_(std::move(routing_key)),
      prefix_(HashPrefix(request_)),
      context_(context),
      record_(registry.log(), *context, request_),
      delivery_(WhatTheClientHad(request_)) {
  AddTraceContext(ReadTraceContext(*context), context);
  record_.SetPriority(PriorityOf(terms_));
}

void RoutedCall::Refuse(const absl::Status& status) {
  ++registry_.stats().refused;
  {
    absl::MutexLock lock(&mutex_);
    End(status);
  }
  Advance();
}

void RoutedCall::Start() {
  if (const absl::Status status = registry_.Add(this); !status.ok()) return Refuse(status);
  {
    absl::MutexLock lock(&mutex_);
    registered_ = true;
  }
  registry_.readers().Add(this);
  Go();
  Advance();
}

// --- Towards the engines. ---

RouteHint RoutedCall::Hint() const {
  absl::MutexLock lock(&mutex_);
  RouteHint hint;
  hint.model = request_.model();
  hint.prefix = prefix_;
  hint.routing_key = routing_key_;
  hint.prompt_tokens =
      std::max<int64_t>({1, request_.token_ids().ids_size(),
                         static_cast<int64_t>(request_.prompt().size()) / kBytesPerToken});
  const pb::StoppingOptions& stopping = request_.stopping();
  const int64_t of_each = stopping.has_max_tokens()
                              ? std::min<int64_t>(stopping.max_tokens(), kLongOutput)
                              : kUsualOutput;
  const int64_t left = of_each * delivery_.num_sequences() - delivery_.num_tokens();
  hint.output_tokens = std::max<int64_t>(left, 1);
  hint.prompt_tokens += delivery_.num_tokens();
  hint.avoid = refused_;
  if (!avoid_.empty()) hint.avoid.push_back(avoid_);
  return hint;
}

absl::StatusOr<EngineLease> RoutedCall::Choose() {
  RouteHint hint = Hint();
  while (true) {
    absl::StatusOr<EngineLease> lease = registry_.pool().Pick(hint);
    if (!lease.ok()) return lease.status();
    const std::string& target = lease->target();
    {
      absl::MutexLock lock(&mutex_);
      if (absl::c_linear_search(refused_, target)) return refusal_;  // so have all others
    }
    if (registry_.quarantine().MayRun(number_, target)) return lease;
    if (absl::c_count(hint.avoid, target) > 1) {
      return absl::AbortedError("every engine that serves tries another request");
    }
    hint.avoid.insert(hint.avoid.end(), 2, target);
  }
}

void RoutedCall::Go() {
  while (true) {
    const uint64_t losses = registry_.losses();
    absl::StatusOr<EngineLease> lease = Choose();
    if (lease.ok()) {
      if (GoTo(*std::move(lease), losses)) return;
      registry_.quarantine().Leave(number_);
      continue;
    }
    {
      absl::MutexLock lock(&mutex_);
      if (!must_go_on_) {
        ++registry_.stats().refused;
        return End(lease.status());
      }
    }
    return WaitForEngine(lease.status());
  }
}

bool RoutedCall::GoTo(EngineLease lease, uint64_t losses) {
  std::shared_ptr<Attempt> attempt;
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return true;  // the client has gone
    if (!registry_.Place(this, lease.target(), losses)) return false;
    if (num_attempts_++ == 0) ++registry_.stats().requests;
    record_.SetEngine(lease.target());
    tokens_before_ = delivery_.num_tokens();
    cleared_ = false;
    aboard_ = false;
    attempt = attempt_ =
        Attempt::Make(registry_, *this, std::move(lease), losses, NextRequest(), terms_);
    Retain();  // until OnAttemptDone
  }
  attempt->Begin();
  return true;
}

pb::GenerateRequest RoutedCall::NextRequest() const {
  pb::GenerateRequest request = request_;
  if (num_attempts_ > 1) {
    // The engine may be the one that had it and not know yet that its stream is gone.
    constexpr size_t kRoomForNumber = 200;
    request.set_request_id(
        absl::StrCat(request_id().substr(0, kRoomForNumber), "~", number_, "~", num_attempts_));
  }
  const std::vector<ResumedOutput> resumed = delivery_.Resume();
  if (!resumed.empty()) SetResume(resumed, &request);
  return request;
}

void RoutedCall::WaitForEngine(const absl::Status& why) {
  absl::Time at;
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    const absl::Time now = absl::Now();
    // Engines are there, and take its turn for a suspect that waits.
    if (why.code() == absl::StatusCode::kAborted) wait_until_.reset();
    if (!wait_until_.has_value()) wait_until_ = now + registry_.options().timeout;
    if (now >= *wait_until_) {
      ++registry_.stats().failed;
      return End(absl::UnavailableError(absl::StrCat(
          "the engine that worked on the request is lost, and no other took it within ",
          absl::FormatDuration(registry_.options().timeout), ": ", std::string(why.message()))));
    }
    const absl::Duration delay = RetryDelayOf(why).value_or(kLookAgain);
    at = std::min(*wait_until_, now + delay);
    refused_.clear();  // they are asked again
  }
  registry_.WakeLater(this, at);
}

void RoutedCall::Carry(const std::string& from, const absl::Status& why) {
  bool at_once = true;
  registry_.quarantine().Leave(number_);
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    ++registry_.stats().carried;
    registry_.Place(this, "", 0);
    delivery_.Lose();
    must_go_on_ = true;
    avoid_ = from;
    fruitless_ = delivery_.num_tokens() > tokens_before_ ? 0 : fruitless_ + 1;
    at_once = num_attempts_ <= kAtOnce;
    if (aborted_) {
      EndAborted();
    } else if (fruitless_ >= registry_.options().max_attempts) {
      Fail(absl::UnavailableError(absl::StrCat(fruitless_,
                                               " engines in a row were lost before they brought a "
                                               "token; the last: ",
                                               std::string(why.message()))));
    }
  }
  if (at_once) {
    Go();
  } else {
    registry_.WakeLater(this, absl::Now() + kLookAgain);
  }
  Advance();
}

void RoutedCall::LeaveEngine(const absl::Status& why) {
  std::shared_ptr<Attempt> attempt;
  {
    absl::MutexLock lock(&mutex_);
    if (ended() || attempt_ == nullptr) return;
    attempt = std::exchange(attempt_, nullptr);
  }
  attempt->Abandon();
  Carry(attempt->lease().target(), why);
}

void RoutedCall::OnBusy(const std::string& target, const absl::Status& refusal) {
  bool wait = false;
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    registry_.Place(this, "", 0);
    refused_.push_back(target);
    refusal_ = refusal;
    wait = aborted_;
    if (wait) EndAborted();
  }
  registry_.quarantine().Leave(number_);
  if (!wait) Go();
  Advance();
}

bool RoutedCall::is_aboard() const {
  absl::MutexLock lock(&mutex_);
  return aboard_ && !ended();
}

void RoutedCall::Wake() {
  {
    absl::MutexLock lock(&mutex_);
    if (ended() || attempt_ != nullptr) return;
  }
  Go();
  Advance();
}

// --- From the engine. ---

void RoutedCall::BeAccepted() {
  accepted_ = true;
  aboard_ = true;
  must_go_on_ = true;  // from now on the request is ours to bring to its end
  wait_until_.reset();
  refused_.clear();
}

void RoutedCall::OnAccepted(Attempt* attempt) {
  bool abort = false;
  {
    absl::MutexLock lock(&mutex_);
    if (attempt != attempt_.get()) return;
    BeAccepted();
    abort = aborted_;
  }
  if (abort) ForwardAbort(*attempt);  // the first may have come before the request
  Advance();
}

void RoutedCall::OnEvent(Attempt* attempt, pb::GenerateResponse event) {
  int64_t new_tokens = 0;
  bool current = false;
  bool clear = false;
  bool read_on = false;
  {
    absl::MutexLock lock(&mutex_);
    attempt->EventTaken();
    current = attempt == attempt_.get();
    if (current) BeAccepted();
    if (current && !ended()) {
      const int64_t before = delivery_.num_tokens();
      if (event.request_id() != request_id()) event.set_request_id(request_id());
      std::vector<pb::GenerateResponse> next;
      delivery_.Take(std::move(event), &next);
      for (pb::GenerateResponse& ready : next) Tell(std::move(ready));
      new_tokens = delivery_.num_tokens() - before;
      attempt->lease().OnTokens(new_tokens);
      const int64_t progress = delivery_.num_tokens() - tokens_before_;
      clear = num_attempts_ > 1 && !cleared_ && progress >= Quarantine::kClearingTokens;
      cleared_ = cleared_ || clear;
      if (delivery_.complete()) {
        ++registry_.stats().finished;
        End(absl::OkStatus());
      }
    }
    read_on = !current || ended() || ready_.size() < kReadAhead;
  }
  if (current) Advance();
  registry_.stats().tokens += static_cast<uint64_t>(new_tokens);
  if (clear && registry_.quarantine().Clear(number_)) registry_.WakeAll();
  if (read_on) attempt->ReadNext();
}

void RoutedCall::OnAttemptDone(Attempt* attempt, const grpc::Status& grpc_status) {
  const absl::Status status = FromGrpc(grpc_status);
  const std::string target = attempt->lease().target();
  AttemptEnd end = AttemptEnd::kNone;
  {
    absl::MutexLock lock(&mutex_);
    if (attempt == attempt_.get()) {
      attempt_.reset();
      if (!ended()) end = JudgeEnd(status, attempt->accepted());
      if (end == AttemptEnd::kFinal) {
        ++(attempt->accepted() ? registry_.stats().failed : registry_.stats().refused);
        End(status);
      }
    }
  }
  if (end == AttemptEnd::kEngineLost) {
    attempt->lease().ReportLost(status);
    registry_.OnEngineLost(target, attempt->losses());  // this call among those that are there
  }
  if (end == AttemptEnd::kBusy) OnBusy(target, status);
  if (end == AttemptEnd::kEngineLost || end == AttemptEnd::kStreamLost) Carry(target, status);
  if (end == AttemptEnd::kFinal) Advance();
  Release();
}

void RoutedCall::Convict() {
  std::shared_ptr<Attempt> attempt;
  {
    absl::MutexLock lock(&mutex_);
    attempt = std::exchange(attempt_, nullptr);
    if (!ended()) {
      ++registry_.stats().quarantined;
      Fail(absl::FailedPreconditionError(
          "engines that worked on this request were lost again and again, so it is not tried once "
          "more"));
    }
  }
  if (attempt != nullptr) attempt->Abandon();
  Advance();
}

void RoutedCall::Abort() {
  std::shared_ptr<Attempt> attempt;
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    aborted_ = true;
    attempt = attempt_;
    if (attempt == nullptr) EndAborted();
  }
  if (attempt != nullptr) ForwardAbort(*attempt);
  Advance();
}

}  // namespace polystrate
