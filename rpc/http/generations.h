// Generations: the calls of Generate that one HTTP request makes, read by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

namespace pb = openengine::v1;

class Generations {
 public:
  using Metadata = std::vector<std::pair<std::string, std::string>>;

  enum class Outcome {
    kEvent,
    kTimeout,
    kEnd,  // every call is over, or one has failed
  };

  // Starts the calls, kMaxParallel at a time: a request with many prompts must not fill the queue.
  // `stub` must outlive this.
  Generations(pb::Inference::Stub& stub, std::vector<pb::GenerateRequest> requests,
              Metadata metadata);
  // Cancels what runs and returns when it is gone.
  ~Generations();

  // The next event of any call, in each call's own order, and which of the requests it is for.
  // A call is not read further before its event has been taken here, so that a slow client holds
  // the engine's stream up and not this program's memory.
  Outcome Next(absl::Duration timeout, int64_t* index, pb::GenerateResponse* event);
  // After kEnd: OK when every call ended with its last event, else why the first one did not.
  const absl::Status& status() const { return status_; }

  static constexpr int64_t kMaxParallel = 64;

 private:
  class Call;

  void StartMore();
  // The next call that has something to take; null: none has by then.
  Call* AwaitReady(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  void Ready(Call* call) ABSL_LOCKS_EXCLUDED(mutex_);

  pb::Inference::Stub& stub_;
  const std::vector<pb::GenerateRequest> requests_;
  const Metadata metadata_;
  std::vector<std::unique_ptr<Call>> calls_;  // started, in the order of the requests
  int64_t num_running_ = 0;
  absl::Status status_;

  absl::Mutex mutex_;
  std::deque<Call*> ready_ ABSL_GUARDED_BY(mutex_);  // with an event to take, or at their end
};

}  // namespace polystrate
