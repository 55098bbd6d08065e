#include "rpc/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "health.grpc.pb.h"
#include "rpc/convert.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

absl::Status CancelledStatus() { return absl::CancelledError("cancelled"); }

// A server that speaks TLS hangs up without a word on who does not, or shows no certificate.
bool HungUp(const absl::Status& status) {
  return absl::StrContains(status.message(), "Socket closed") ||
         absl::StrContains(status.message(), "Connection reset");
}

}  // namespace

class EngineClient::Running {
 public:
  Running(EngineClient& client, absl::Time deadline) : client_(client) {
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
    absl::MutexLock lock(&client_.mutex_);
    client_.running_ = &context_;
    if (client_.cancelled_) context_.TryCancel();
  }
  ~Running() {
    absl::MutexLock lock(&client_.mutex_);
    client_.running_ = nullptr;
  }
  grpc::ClientContext* context() { return &context_; }

 private:
  EngineClient& client_;
  grpc::ClientContext context_;
};

EngineClient::EngineClient(const std::string& target, Connector connector)
    : target_(target), connector_(std::move(connector)), channel_(connector_.Connect(target)) {}

absl::Status EngineClient::CheckServing(absl::Duration timeout) {
  Running running(*this, absl::Now() + timeout);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = grpc::health::v1::Health::NewStub(channel_)->Check(
      running.context(), grpc::health::v1::HealthCheckRequest(), &response);
  if (!status.ok()) return FromGrpc(status);
  if (response.status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError("it answers, but NOT_SERVING (it is starting or draining)");
}

absl::Status EngineClient::WaitForServing(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const char* advice = "";
  while (true) {
    const absl::Duration left = deadline - absl::Now();
    absl::Status status = CheckServing(std::clamp(left, absl::Milliseconds(100), absl::Seconds(2)));
    if (status.ok()) return status;
    if (HungUp(status)) {
      advice = connector_.secure() ? "; does it want a certificate? (--tls_cert)"
                                   : "; does it speak TLS? (--tls_ca)";
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(target_, " is not serving after ",
                                                      absl::FormatDuration(timeout), ": ",
                                                      std::string(status.message()), advice));
    }
    // An engine that is being started refuses connections for a while, and gRPC would back off for
    // seconds; a new channel tries at once.
    channel_ = connector_.Connect(target_);
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), absl::Milliseconds(100));
    if (cancelled_) return CancelledStatus();
  }
}

absl::Status EngineClient::Generate(const pb::GenerateRequest& request, const OnEvent& on_event,
                                    absl::Time deadline) {
  Running running(*this, deadline);
  auto stream = pb::Inference::NewStub(channel_)->Generate(running.context(), request);
  absl::Status end = absl::InternalError("the stream ended without its last event");
  pb::GenerateResponse event;
  while (stream->Read(&event)) {
    if (event.has_finished()) end = absl::OkStatus();
    if (event.has_error()) end = FromWire(event.error());
    on_event(event);
  }
  const grpc::Status status = stream->Finish();
  return status.ok() ? end : FromGrpc(status);
}

void EngineClient::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  if (running_ != nullptr) running_->TryCancel();
}

}  // namespace polystrate
