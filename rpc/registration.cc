#include "rpc/registration.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/time/clock.h"
#include "polystrate_coordinator.grpc.pb.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kLongestBackoff = absl::Seconds(5);
constexpr absl::Duration kAnswer = absl::Seconds(5);

}  // namespace

Registration::Registration(const RegistrationOptions& options, std::function<bool()> wanted)
    : options_(options), wanted_(std::move(wanted)), thread_([this] { Run(); }) {}

Registration::~Registration() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    if (running_ != nullptr) running_->TryCancel();
  }
  thread_.join();
}

void Registration::Run() {
  absl::Duration backoff = kFirstBackoff;
  bool stop = false;
  while (!stop && wanted_()) {
    const absl::Status status = Register();
    Log(status);
    if (status.ok()) {
      backoff = kFirstBackoff;
      stop = Sleep(options_.lease / 3);
    } else {
      channel_.reset();  // gRPC's own back-off goes with it
      stop = Sleep(backoff);
      backoff = std::min(2 * backoff, kLongestBackoff);
    }
  }
}

absl::Status Registration::Register() {
  if (channel_ == nullptr) channel_ = options_.connector.Connect(options_.coordinator);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kAnswer));
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    running_ = &context;
  }
  v1::RegisterRequest request;
  request.set_target(options_.target);
  request.set_lease_seconds(absl::ToDoubleSeconds(options_.lease));
  v1::RegisterResponse response;
  const grpc::Status status =
      v1::Coordinator::NewStub(channel_)->Register(&context, request, &response);
  absl::MutexLock lock(&mutex_);
  running_ = nullptr;
  return FromGrpc(status);
}

void Registration::Log(const absl::Status& status) {
  const Logged outcome = status.ok() ? Logged::kSuccess : Logged::kFailure;
  if (status.code() == absl::StatusCode::kCancelled || outcome == logged_) return;
  logged_ = outcome;
  if (status.ok()) {
    std::fprintf(stderr, "serve: registered with %s as %s\n", options_.coordinator.c_str(),
                 options_.target.c_str());
  } else {
    std::fprintf(stderr, "warning: cannot register with %s, which is tried again: %s\n",
                 options_.coordinator.c_str(), std::string(status.message()).c_str());
  }
}

bool Registration::Sleep(absl::Duration time) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stopping_), time);
  return stopping_;
}

}  // namespace polystrate
