// EngineClient: one blocking client of an engine (or coordinator): waits until it serves, and
// streams a generation.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/connector.h"

namespace polystrate {

class EngineClient {
 public:
  // `target` is HOST:PORT. Connects when the first call is made.
  explicit EngineClient(const std::string& target, Connector connector = Connector());

  // OK as soon as grpc.health.v1 says SERVING; DEADLINE_EXCEEDED, with what was the matter last.
  absl::Status WaitForServing(absl::Duration timeout);

  // Hands every event to `on_event` as it comes. OK after GenerationFinished; else the call's
  // status or that of the EngineError which ended it.
  using OnEvent = std::function<void(const openengine::v1::GenerateResponse&)>;
  absl::Status Generate(const openengine::v1::GenerateRequest& request, const OnEvent& on_event,
                        absl::Time deadline = absl::InfiniteFuture());

  // Any thread: ends what runs and what comes later with CANCELLED.
  void Cancel();

 private:
  // A call's context is known to Cancel() for as long as this lives.
  class Running;

  absl::Status CheckServing(absl::Duration timeout);

  const std::string target_;
  const Connector connector_;
  std::shared_ptr<grpc::Channel> channel_;  // renewed while waiting for an engine
  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace polystrate
