#include "rpc/generate_reactor.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"
#include "rpc/grpc_status.h"

namespace polystrate {

GenerateReactor* GenerateReactor::Start(Engine& engine, grpc::CallbackServerContext* context,
                                        absl::StatusOr<GenerationRequest> request) {
  auto* reactor = new GenerateReactor(engine);
  if (!request.ok()) {
    reactor->Finish(ToGrpc(request.status()));
    return reactor;
  }
  context->AddInitialMetadata("openengine-request-id", request->request_id);
  reactor->Submit(*std::move(request));
  return reactor;
}

void GenerateReactor::Submit(GenerationRequest request) {
  request_id_ = request.request_id;
  if (request.prompt_logprobs) {
    const auto& prompt = request.prompt;
    const auto size = static_cast<int64_t>(prompt.size());
    // One beyond the prompt is refused below.
    prompt_.assign(prompt.begin() + std::min(request.prompt_logprob_start, size), prompt.end());
  }
  usage_.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  // Before Submit, because the engine may have finished by the time it returns.
  owners_ = 2;
  SetLive(true);
  const absl::Status status = engine_.Submit(std::move(request), this);
  if (status.ok()) {
    StartSendInitialMetadata();  // accepted: the client learns so before the first token
  } else {
    SetLive(false);
    owners_ = 1;
    Finish(ToGrpc(status));
  }
}

void GenerateReactor::SetLive(bool live) {
  absl::MutexLock lock(&mutex_);
  live_ = live;
}

pb::GenerateResponse& GenerateReactor::NewEvent() {
  pb::GenerateResponse& event = events_.emplace_back();
  event.set_request_id(request_id_);
  return event;
}

pb::TokenOutput& GenerateReactor::Tokens(int32_t output_index) {
  const auto index = static_cast<uint32_t>(output_index);
  for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
    if (event->has_token() && event->token().output_index() == index) {
      return *event->mutable_token();
    }
  }
  pb::TokenOutput& output = *NewEvent().mutable_token();
  output.set_output_index(index);
  return output;
}

void GenerateReactor::End(const grpc::Status& status) {
  if (!end_.has_value()) end_ = status;
}

void GenerateReactor::OnPrompt(const std::vector<PromptScore>& scores) {
  CHECK_EQ(scores.size(), prompt_.size());
  {
    absl::MutexLock lock(&mutex_);
    pb::PromptOutput& prompt = *NewEvent().mutable_prompt();
    for (size_t i = 0; i < scores.size(); ++i) {
      ToWire(prompt_[i], scores[i], prompt.add_tokens());
    }
  }
  Advance();
}

void GenerateReactor::OnToken(const TokenInfo& token) {
  ++usage_.completion_tokens;
  {
    absl::MutexLock lock(&mutex_);
    pb::TokenOutput& output = Tokens(token.output_index);
    ToWire(token, output.add_tokens());
    output.mutable_text()->append(token.text);
  }
  Advance();
}

void GenerateReactor::OnFinished(const Finished& finished) {
  {
    absl::MutexLock lock(&mutex_);
    if (!finished.text.empty()) {
      Tokens(finished.output_index).mutable_text()->append(finished.text);
    }
    pb::GenerateResponse& event = NewEvent();
    ToWire(finished, event.mutable_finished());
    if (finished.usage.has_value()) {
      live_ = false;
      ToWire(*finished.usage, event.mutable_usage());
      End(grpc::Status::OK);
    }
  }
  Advance();
  if (finished.usage.has_value()) Release();
}

void GenerateReactor::OnError(const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    live_ = false;
    const bool of_the_stream = status.code() == absl::StatusCode::kUnavailable ||
                               status.code() == absl::StatusCode::kDeadlineExceeded ||
                               status.code() == absl::StatusCode::kCancelled;
    if (of_the_stream) {
      End(ToGrpc(status));
    } else {
      pb::GenerateResponse& event = NewEvent();
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
      events_.clear();
      End(grpc::Status(grpc::StatusCode::CANCELLED, "the stream is broken"));
    }
  }
  Advance();
}

// The deadline has passed, the client has cancelled or gone, or the server shuts down. The client
// has its status already, so what still waits is of no use; the engine frees the request's blocks
// at its next step.
void GenerateReactor::OnCancel() {
  bool cancel = false;
  {
    absl::MutexLock lock(&mutex_);
    events_.clear();
    End(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled"));
    cancel = live_;
  }
  // NOT_FOUND: it has just ended by itself.
  if (cancel) engine_.Cancel(request_id_, this).IgnoreError();
  Advance();
}

void GenerateReactor::Advance() {
  std::optional<grpc::Status> end;
  const pb::GenerateResponse* event = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (busy_) return;
    if (!events_.empty()) {
      writing_ = std::move(events_.front());
      events_.pop_front();
      event = &writing_;
    } else if (end_.has_value()) {
      end = end_;
    } else {
      return;
    }
    busy_ = true;  // for good, when this is the end
  }
  if (event != nullptr) {
    StartWrite(event);
  } else {
    Finish(*end);
  }
}

void GenerateReactor::OnDone() { Release(); }

void GenerateReactor::Release() {
  if (--owners_ == 0) delete this;
}

}  // namespace polystrate
