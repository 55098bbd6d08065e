// LoadClient: many streams to an engine at once from one process. Sends without waiting; what comes
// back is timed on gRPC's threads as it arrives and collected by the one thread that sends.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "launcher/load_outcome.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

// Nanoseconds of the steady clock.
int64_t SteadyNs();

// One thread calls everything but Interrupt().
class LoadClient {
 public:
  // Streams go over the channels in turn.
  explicit LoadClient(const std::vector<std::shared_ptr<grpc::Channel>>& channels);
  // Cancels what still runs and waits for it.
  ~LoadClient();

  // Starts a stream and returns at once. `index` comes back in its outcome.
  void Send(int64_t index, const openengine::v1::GenerateRequest& request);
  // Streams that have not ended.
  int64_t running() const;
  // Until at most `max_running` streams run (-1: never), `due_ns` of the steady clock has come, or
  // Interrupt() was called.
  void Wait(int64_t due_ns, int64_t max_running);
  // What has ended since the last call, in that order.
  std::vector<LoadOutcome> TakeFinished();
  // Ends what runs with CANCELLED.
  void CancelAll();

  // Any thread: ends every wait, now and later.
  void Interrupt();
  bool interrupted() const;

 private:
  class Stream;
  void Finished(Stream* stream);

  std::vector<std::unique_ptr<openengine::v1::Inference::Stub>> stubs_;
  size_t next_stub_ = 0;
  // Streams are destroyed by the sending thread alone, so that CancelAll() may reach each of them.
  std::unordered_map<Stream*, std::unique_ptr<Stream>> streams_;

  mutable absl::Mutex mutex_;
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Stream*> finished_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
