// What a RoutedCall says to its client.
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "rpc/convert.h"
#include "rpc/coordinator/routed_call.h"
#include "rpc/grpc_status.h"
#include "rpc/reader_watch.h"

namespace polystrate {

namespace pb = openengine::v1;

void RoutedCall::Tell(pb::GenerateResponse event) {
  record_.AddEvent(event);
  ready_.push_back(std::move(event));
}

void RoutedCall::EndAborted() {
  pb::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(request_.token_ids().ids_size()));
  usage.set_completion_tokens(static_cast<uint32_t>(delivery_.num_tokens()));
  usage.set_total_tokens(usage.prompt_tokens() + usage.completion_tokens());
  std::vector<pb::GenerateResponse> events;
  for (int32_t i = 0; i < delivery_.num_sequences(); ++i) {
    if (delivery_.has_ended(i)) continue;
    pb::GenerateResponse& event = events.emplace_back();
    event.set_request_id(request_id());
    event.mutable_finished()->set_output_index(static_cast<uint32_t>(i));
    event.mutable_finished()->set_reason(pb::FINISH_REASON_CANCELLED);
    event.mutable_finished()->set_message("aborted");
  }
  if (!events.empty()) {
    *events.back().mutable_usage() = usage;
  } else if (!ready_.empty()) {  // all had ended
    *ready_.back().mutable_usage() = usage;
  }
  for (pb::GenerateResponse& event : events) Tell(std::move(event));
  End(absl::OkStatus());
}

void RoutedCall::Fail(const absl::Status& status) {
  ++registry_.stats().failed;
  if (!opened_ && !accepted_) return End(status);
  pb::GenerateResponse event;
  event.set_request_id(request_id());
  ToWire(status, event.mutable_error());
  Tell(std::move(event));
  End(absl::OkStatus());
}

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
      record_.End(end);
      remove = std::exchange(registered_, false);
    } else {
      return;
    }
    busy_ = true;  // for good, when this is the end
    ++num_operations_;
  }
  if (operation == kOpen) {
    {
      absl::MutexLock lock(&context_mutex_);
      if (context_ != nullptr) context_->AddInitialMetadata("openengine-request-id", request_id());
    }
    return StartSendInitialMetadata();
  }
  if (operation == kWrite) {
    StartWrite(&writing_);
    if (reader != nullptr) reader->ReadNext();
    return;
  }
  if (remove) registry_.Remove(this);  // the id is free before the client can use it again
  Finish(ToGrpc(end));
}

std::optional<uint64_t> RoutedCall::PendingOperation() {
  absl::MutexLock lock(&mutex_);
  if (!busy_) return std::nullopt;
  return num_operations_;
}

void RoutedCall::GiveUpReader(absl::Duration stalled) {
  EndNow(StalledReader(absl::StrCat("it took nothing for ", absl::FormatDuration(stalled))));
}

void RoutedCall::Break() {
  absl::MutexLock lock(&context_mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

void RoutedCall::OnDone() {
  registry_.readers().Remove(this);
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
