#include "rpc/coordinator/routed_call.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
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
// Of an output without max_tokens, for routing.
constexpr int64_t kUsualOutput = 256;
constexpr int64_t kBytesPerToken = 4;

std::atomic<uint64_t> num_calls{0};

// A request may be resumed already when it comes. What is wrong with that an engine says.
std::vector<ResumedOutput> WhatTheClientHad(const pb::GenerateRequest& request) {
  constexpr uint32_t kMost = 1 << 16;  // an engine takes fewer
  const uint32_t outputs = std::clamp(request.sampling().num_sequences(), 1u, kMost);
  absl::StatusOr<RequestExtra> extra = ReadExtra(request.extra());
  if (extra.ok() && extra->resumed.size() == outputs) return std::move(extra->resumed);
  return std::vector<ResumedOutput>(outputs);
}

// The engine's stream is to end as an aborted one.
void ForwardAbort(Attempt& attempt) {
  struct Call {
    grpc::ClientContext context;
    pb::AbortRequest request;
    pb::AbortResponse response;
  };
  auto call = std::make_shared<Call>();
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
      delivery_(WhatTheClientHad(request_)) {
  registry_.OnCreated();
  AddTraceContext(ReadTraceContext(*context), context);
  context->AddInitialMetadata("openengine-request-id", request_.request_id());
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
  const int64_t of_each = stopping.has_max_tokens() ? stopping.max_tokens() : kUsualOutput;
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
      return absl::UnavailableError("every engine that serves tries another request");
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
    tokens_before_ = delivery_.num_tokens();
    cleared_ = false;
    aboard_ = false;
    wait_until_.reset();
    attempt = attempt_ = Attempt::Make(*this, std::move(lease), NextRequest(), terms_);
    Retain();  // until OnAttemptDone
  }
  attempt->Begin();
  return true;
}

pb::GenerateRequest RoutedCall::NextRequest() const {
  pb::GenerateRequest request = request_;
  if (num_attempts_ > 1) {
    // The engine may be the one that had it and not know yet that its stream is gone.
    constexpr size_t kRoomForNumber = 240;
    request.set_request_id(
        absl::StrCat(request_id().substr(0, kRoomForNumber), "~", num_attempts_));
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
    if (aborted_) {
      EndAborted();
    } else if (fruitless_ >= registry_.options().max_attempts) {
      Fail(absl::UnavailableError(absl::StrCat(fruitless_,
                                               " engines in a row were lost before they brought a "
                                               "token; the last: ",
                                               std::string(why.message()))));
    }
  }
  Go();
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
  bool stuck = false;
  {
    absl::MutexLock lock(&mutex_);
    if (!ended() && attempt_ != nullptr) return;
    stuck = ended() && busy_;
  }
  if (stuck) {  // the reader takes not even its last words
    absl::MutexLock lock(&context_mutex_);
    if (context_ != nullptr) context_->TryCancel();
    return;
  }
  Go();
  Advance();
}

// --- From the engine. ---

void RoutedCall::BeAccepted() {
  accepted_ = true;
  aboard_ = true;
  must_go_on_ = true;  // from now on the request is ours to bring to its end
}

void RoutedCall::OnAccepted(Attempt* attempt) {
  {
    absl::MutexLock lock(&mutex_);
    if (attempt != attempt_.get()) return;
    BeAccepted();
  }
  Advance();
}

void RoutedCall::OnEvent(Attempt* attempt, pb::GenerateResponse event) {
  int64_t new_tokens = 0;
  bool clear = false;
  bool read_on = false;
  {
    absl::MutexLock lock(&mutex_);
    if (attempt != attempt_.get()) return;
    BeAccepted();
    if (!ended()) {
      const int64_t before = delivery_.num_tokens();
      if (event.request_id() != request_id()) event.set_request_id(request_id());
      std::vector<pb::GenerateResponse> next;
      delivery_.Take(std::move(event), &next);
      for (pb::GenerateResponse& ready : next) ready_.push_back(std::move(ready));
      new_tokens = delivery_.num_tokens() - before;
      const int64_t progress = delivery_.num_tokens() - tokens_before_;
      clear = num_attempts_ > 1 && !cleared_ && progress >= Quarantine::kClearingTokens;
      cleared_ = cleared_ || clear;
      if (delivery_.complete()) {
        ++registry_.stats().finished;
        End(absl::OkStatus());
      }
    }
    read_on = ended() || ready_.size() < kReadAhead;
  }
  Advance();
  registry_.stats().tokens += static_cast<uint64_t>(new_tokens);
  attempt->lease().OnTokens(new_tokens);
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
    registry_.OnEngineLost(target);  // this call among those that are there
  }
  if (end == AttemptEnd::kBusy) OnBusy(target, status);
  if (end == AttemptEnd::kEngineLost || end == AttemptEnd::kStreamLost) Carry(target, status);
  if (end == AttemptEnd::kFinal) {
    Advance();
    registry_.WakeLater(this, absl::Now() + registry_.options().reader_timeout);
  }
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

void RoutedCall::EndAborted() {
  pb::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(request_.token_ids().ids_size()));
  usage.set_completion_tokens(static_cast<uint32_t>(delivery_.num_tokens()));
  usage.set_total_tokens(usage.prompt_tokens() + usage.completion_tokens());
  for (int32_t i = 0; i < delivery_.num_sequences(); ++i) {
    if (delivery_.has_ended(i)) continue;
    pb::GenerateResponse& event = ready_.emplace_back();
    event.set_request_id(request_id());
    event.mutable_finished()->set_output_index(static_cast<uint32_t>(i));
    event.mutable_finished()->set_reason(pb::FINISH_REASON_CANCELLED);
    event.mutable_finished()->set_message("aborted");
  }
  *ready_.back().mutable_usage() = usage;
  End(absl::OkStatus());
}

void RoutedCall::Fail(const absl::Status& status) {
  ++registry_.stats().failed;
  if (!opened_ && !accepted_) return End(status);
  pb::GenerateResponse& event = ready_.emplace_back();
  event.set_request_id(request_id());
  ToWire(status, event.mutable_error());
  End(absl::OkStatus());
}

// --- Towards the client. ---

void RoutedCall::End(const absl::Status& status) {
  if (!ended()) end_ = status;
}

void RoutedCall::EndNow(const absl::Status& status) {
  std::shared_ptr<Attempt> attempt;
  {
    absl::MutexLock lock(&mutex_);
    if (!ended() || !ready_.empty()) end_ = status;  // otherwise all has been said
    ready_.clear();
    attempt = std::exchange(attempt_, nullptr);
  }
  if (attempt != nullptr) attempt->Abandon();
  Advance();
}

void RoutedCall::OperationDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
    if (!ok) {  // the client is gone; OnCancel does the rest
      ready_.clear();
      End(absl::CancelledError("the stream is broken"));
    }
  }
  Advance();
}

void RoutedCall::OnCancel() { EndNow(absl::CancelledError("the call was cancelled")); }

void RoutedCall::Advance() {
  enum { kOpen, kWrite, kFinish } operation;
  std::shared_ptr<Attempt> reader;
  absl::Status end;
  bool remove = false;
  {
    absl::MutexLock lock(&mutex_);
    if (busy_) return;
    if (accepted_ && !opened_) {
      operation = kOpen;
      opened_ = true;
    } else if (!ready_.empty()) {
      operation = kWrite;
      writing_ = std::move(ready_.front());
      ready_.pop_front();
      reader = attempt_;
    } else if (ended()) {
      operation = kFinish;
      end = *end_;
      remove = std::exchange(registered_, false);
    } else {
      return;
    }
    busy_ = true;  // for good, when this is the end
  }
  if (operation == kOpen) return StartSendInitialMetadata();
  if (operation == kWrite) {
    StartWrite(&writing_);
    if (reader != nullptr) reader->ReadNext();
    return;
  }
  if (remove) registry_.Remove(this);  // the id is free before the client can use it again
  Finish(ToGrpc(end));
}

void RoutedCall::OnDone() {
  {
    absl::MutexLock lock(&context_mutex_);
    context_ = nullptr;
  }
  Release();
}

void RoutedCall::Release() {
  if (--owners_ == 0) delete this;
}

}  // namespace polystrate
