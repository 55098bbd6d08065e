#include "rpc/generate_reactor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "rpc/grpc_status.h"
#include "rpc/trace_context.h"

namespace polystrate {
GenerateReactor::GenerateReactor(Engine& engine, ReaderWatch<GenerateReactor>& readers,
                                 grpc::CallbackServerContext* context, CallRecord record)
    : engine_(engine),
      readers_(readers),
      record_(std::move(record)),
      context_(context),
      events_(engine.tokenizer()) {
  AddTraceContext(ReadTraceContext(*context), context);
}

void GenerateReactor::Refuse(const absl::Status& status) {
  record_.Refuse(status);
  Finish(ToGrpc(status));
}

void GenerateReactor::Submit(absl::StatusOr<GenerationRequest> request) {
  if (!request.ok()) return Refuse(request.status());
  request_id_ = request->request_id;
  if (request->prompt_logprobs) {
    const auto& prompt = request->prompt;
    const auto size = static_cast<int64_t>(prompt.size());
    // One beyond the prompt is refused below.
    prompt_.assign(prompt.begin() + std::min(request->prompt_logprob_start, size), prompt.end());
  }
  usage_.prompt_tokens = static_cast<int64_t>(request->prompt.size());
  for (const ResumedOutput& output : request->resumed) {
    usage_.completion_tokens += static_cast<int64_t>(output.tokens.size());
  }
  record_.SetRequest(*request);
  // Before Submit, because the engine may have finished by the time it returns.
  owners_ = 2;
  if (!BecomeLive()) {
    owners_ = 1;
    return Refuse(absl::CancelledError("the call was cancelled"));
  }
  const absl::Status status = engine_.Submit(*std::move(request), this);
  if (status.ok()) return Accepted();
  {
    absl::MutexLock lock(&mutex_);
    live_ = false;
  }
  owners_ = 1;
  Refuse(status);
}

bool GenerateReactor::BecomeLive() {
  absl::MutexLock lock(&mutex_);
  if (ended()) return false;
  events_.SetRequestId(request_id_);
  live_ = true;
  return true;
}

void GenerateReactor::Accepted() {
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    cancel = live_ && ended();  // the client went before the engine knew of the request
  }
  if (cancel) engine_.Cancel(request_id_, this).IgnoreError();
  readers_.Add(this);
  {
    // Not before: who is refused has none, by which a coordinator tells the two.
    absl::MutexLock lock(&context_mutex_);
    context_->AddInitialMetadata("openengine-request-id", request_id_);
  }
  StartSendInitialMetadata();  // the client learns so before the first token
}

void GenerateReactor::End(const grpc::Status& status) {
  if (!ended()) end_ = status;
}

void GenerateReactor::OnPrompt(const std::vector<PromptScore>& scores) {
  CHECK_EQ(scores.size(), prompt_.size());
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    pb::PromptOutput& prompt = *events_.Add().mutable_prompt();
    for (size_t i = 0; i < scores.size(); ++i) {
      ToWire(prompt_[i], scores[i], engine_.tokenizer(), prompt.add_tokens());
    }
  }
  Advance();
}

void GenerateReactor::OnToken(const TokenInfo& token) {
  ++usage_.completion_tokens;
  record_.AddToken();
  bool too_much = false;
  {
    absl::MutexLock lock(&mutex_);
    if (ended()) return;
    events_.AddToken(token);
    too_much = events_.token_bytes() > kMaxWaitingBytes;
  }
  if (too_much) EndNow(StalledReader(absl::StrCat("it let ", kMaxWaitingBytes, " bytes wait")));
  Advance();
}

void GenerateReactor::OnFinished(const Finished& finished) {
  {
    absl::MutexLock lock(&mutex_);
    if (finished.usage.has_value()) live_ = false;
    if (!ended()) {
      if (!finished.text.empty()) events_.AddText(finished.output_index, finished.text);
      pb::GenerateResponse& event = events_.Add();
      ToWire(finished, event.mutable_finished());
      if (finished.usage.has_value()) {
        ToWire(*finished.usage, event.mutable_usage());
        End(grpc::Status::OK);
      }
    }
    if (finished.usage.has_value()) {
      record_.Finish(finished, static_cast<absl::StatusCode>(end_->error_code()));
    }
  }
  Advance();
  if (finished.usage.has_value()) Release();
}

void GenerateReactor::OnError(const absl::Status& status) {
  record_.Fail(status);
  const bool of_the_stream = status.code() == absl::StatusCode::kUnavailable ||
                             status.code() == absl::StatusCode::kDeadlineExceeded ||
                             status.code() == absl::StatusCode::kCancelled;
  {
    absl::MutexLock lock(&mutex_);
    live_ = false;
    if (of_the_stream) {
      End(ToGrpc(status));
    } else if (!ended()) {
      pb::GenerateResponse& event = events_.Add();
      ToWire(status, event.mutable_error());
      ToWire(usage_, event.mutable_usage());
      End(grpc::Status::OK);
    }
  }
  Advance();
  Release();
}

void GenerateReactor::OnSendInitialMetadataDone(bool ok) { OperationDone(ok); }

void GenerateReactor::OnWriteDone(bool ok) { OperationDone(ok); }

void GenerateReactor::OperationDone(bool ok) {
  {
    absl::MutexLock lock(&mutex_);
    busy_ = false;
    if (!ok) {  // the client is gone; OnCancel tells the engine
      events_.Clear();
      End(grpc::Status(grpc::StatusCode::CANCELLED, "the stream is broken"));
    }
  }
  Advance();
}

// The deadline has passed, the client has cancelled or gone, or the server shuts down. The client
// has its status already, so what still waits is of no use; the engine frees the request's blocks
// at its next step.
void GenerateReactor::OnCancel() {
  EndNow(absl::CancelledError("the call was cancelled"));
  Advance();
}

std::optional<uint64_t> GenerateReactor::PendingOperation() {
  absl::MutexLock lock(&mutex_);
  if (!busy_) return std::nullopt;
  return num_operations_;
}

void GenerateReactor::GiveUpReader(absl::Duration stalled) {
  EndNow(StalledReader(absl::StrCat("it took nothing for ", absl::FormatDuration(stalled))));
  Advance();
}

void GenerateReactor::EndNow(const absl::Status& status) {
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    cancel = live_;
    if (!ended() || !events_.empty()) end_ = ToGrpc(status);  // otherwise all has been said
    events_.Clear();
  }
  // NOT_FOUND: it has just ended by itself.
  if (cancel) engine_.Cancel(request_id_, this).IgnoreError();
}

void GenerateReactor::Break() {
  absl::MutexLock lock(&context_mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

void GenerateReactor::Advance() {
  std::optional<grpc::Status> end;
  const pb::GenerateResponse* event = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (busy_) return;
    if (!events_.empty()) {
      writing_ = events_.TakeFirst();
      event = &writing_;
    } else if (end_.has_value()) {
      end = end_;
    } else {
      return;
    }
    busy_ = true;  // for good, when this is the end
    ++num_operations_;
  }
  if (event != nullptr) {
    StartWrite(event);
  } else {
    Finish(*end);
  }
}

void GenerateReactor::OnDone() {
  readers_.Remove(this);
  {
    absl::MutexLock lock(&context_mutex_);
    context_ = nullptr;
  }
  Release();
}

void GenerateReactor::Release() {
  if (--owners_ == 0) delete this;
}

}  // namespace polystrate
