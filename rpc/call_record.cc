#include "rpc/call_record.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "engine/timeline.h"
#include "rpc/convert.h"
#include "rpc/trace_context.h"

namespace polystrate {
namespace {

const char* Name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "abort";
  }
  return "";
}

const char* Name(openengine::v1::FinishReason reason) {
  switch (reason) {
    case openengine::v1::FINISH_REASON_STOP:
      return Name(FinishReason::kStop);
    case openengine::v1::FINISH_REASON_LENGTH:
      return Name(FinishReason::kLength);
    case openengine::v1::FINISH_REASON_CANCELLED:
      return Name(FinishReason::kCancelled);
    default:
      return "";
  }
}

double SecondsSince(int64_t begin_ns) {
  return static_cast<double>(Timeline::NowNs() - begin_ns) * 1e-9;
}

}  // namespace

CallRecord::CallRecord(RequestLog* log, const grpc::ServerContextBase& context,
                       const openengine::v1::GenerateRequest& request)
    : log_(log), arrival_ns_(Timeline::NowNs()) {
  if (log_ == nullptr || !log_->has_file()) return;
  record_.request_id = request.request_id();
  record_.model = request.model();
  record_.peer = context.peer();
  record_.traceparent = ReadTraceContext(context).traceparent;
}

void CallRecord::SetRequest(const GenerationRequest& request) {
  record_.request_id = request.request_id;
  record_.priority = request.priority;
  record_.prompt_tokens = static_cast<int64_t>(request.prompt.size());
}

void CallRecord::AddToken() {
  if (record_.completion_tokens++ == 0) record_.ttft_seconds = SecondsSince(arrival_ns_);
}

void CallRecord::SetEngine(const std::string& target) {
  record_.engine = target;
  ++record_.attempts;
}

void CallRecord::AddEvent(const openengine::v1::GenerateResponse& event) {
  for (int i = 0; i < event.token().tokens_size(); ++i) AddToken();
  if (event.has_finished()) record_.finish_reason = Name(event.finished().reason());
  if (event.has_error()) record_.status = FromWire(event.error()).code();
  if (!event.has_usage()) return;
  record_.prompt_tokens = event.usage().prompt_tokens();
  record_.cached_tokens = event.usage().cached_prompt_tokens();
}

void CallRecord::End(const absl::Status& status) {
  if (!status.ok()) record_.finish_reason.clear();
  Write(status.ok() ? record_.status : status.code());
}

void CallRecord::Refuse(const absl::Status& status) {
  if (log_ != nullptr) log_->CountRefusal(status.code());
  Write(status.code());
}

void CallRecord::Finish(const Finished& finished, absl::StatusCode stream) {
  record_.finish_reason = Name(finished.reason);
  record_.queue_seconds = absl::ToDoubleSeconds(finished.queue_time);
  record_.cached_tokens = finished.usage->cached_prompt_tokens;
  Write(stream);
}

void CallRecord::Fail(const absl::Status& status) { Write(status.code()); }

void CallRecord::Write(absl::StatusCode status) {
  if (log_ == nullptr || !log_->has_file()) return;
  record_.status = status;
  record_.time = absl::Now();
  record_.e2e_seconds = SecondsSince(arrival_ns_);
  log_->Add(std::move(record_));
}

}  // namespace polystrate
