// Registration: an engine says to a coordinator that it is there, again and again, for as long as
// it wants requests.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "rpc/connector.h"

namespace polystrate {

struct RegistrationOptions {
  std::string coordinator;  // HOST:PORT
  std::string target;       // HOST:PORT at which the coordinator reaches the engine
  Connector connector;      // to the coordinator
  // A word every third of it; an engine that is gone is forgotten after it. In [1 s, 1 h].
  absl::Duration lease = absl::Seconds(15);
};

class Registration {
 public:
  // Begins at once, on a thread of its own, and goes on for as long as `wanted()`, which is asked
  // before every word. A coordinator that does not answer is tried again for ever, after 100 ms,
  // doubled each time up to 5 s; standard error tells when that begins and when it is over.
  Registration(const RegistrationOptions& options, std::function<bool()> wanted);
  ~Registration();

 private:
  void Run();
  absl::Status Register() ABSL_LOCKS_EXCLUDED(mutex_);
  void Log(const absl::Status& status);
  // True when it is to stop.
  bool Sleep(absl::Duration time) ABSL_LOCKS_EXCLUDED(mutex_);

  const RegistrationOptions options_;
  const std::function<bool()> wanted_;
  std::shared_ptr<grpc::Channel> channel_;                                        // the thread's
  enum class Logged { kNothing, kSuccess, kFailure } logged_ = Logged::kNothing;  // the thread's
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ClientContext* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread thread_;
};

}  // namespace polystrate
