// Streams, events and graphs. Work runs as late as it may: when the host waits for its stream or
// looks whether it is done, in the thread that does. So results that are read too early, and
// sources that are changed too early, show. With CUDA_LAUNCH_BLOCKING=1, as with the default
// stream, it runs when it is enqueued; with POLYSTRATE_EMULATED_STREAMS=threads at once, in a
// thread of its stream's own, so that ranks can wait for what others' streams do, as they do over
// NCCL. On a stream that is recorded it becomes a node of the graph instead.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "emulated/runtime_api.h"

struct CUgraph_st {
  std::vector<std::function<void()>> nodes;  // in an order in which they may run
};

struct CUgraphExec_st {
  std::vector<std::function<void()>> nodes;
};

namespace polystrate::emulator {

// A recording that is under way.
struct Capture {
  cudaStreamCaptureMode mode;
  CUstream_st* origin = nullptr;
  std::vector<CUstream_st*> streams;  // the origin's, and those that have joined through events
  CUgraph_st* graph = nullptr;
  bool invalid = false;
};

}  // namespace polystrate::emulator

struct CUstream_st {
  int device = 0;
  std::thread::id owner = std::this_thread::get_id();
  std::recursive_mutex mutex;  // a stream's work may wait for that of another
  std::deque<std::function<void()>> queue;
  // Where it runs in a thread of its own: what runs stays in front until it is done.
  std::condition_variable_any changed;
  bool ending = false;
  std::thread runner;
  polystrate::emulator::Capture* capture = nullptr;
  bool unjoined = false;  // has recorded something that the origin does not wait for
};

struct CUevent_st {
  // Outlives the event where streams have not come to it yet.
  struct Progress {
    std::atomic<uint64_t> num_recorded = 0;
    std::atomic<uint64_t> num_passed = 0;
    std::chrono::steady_clock::time_point at;
  };
  bool timed = true;
  std::shared_ptr<Progress> progress = std::make_shared<Progress>();
  polystrate::emulator::Capture* capture = nullptr;  // in which it was recorded
  CUstream_st* stream = nullptr;                     // of the last record
};

namespace polystrate::emulator {

// Remembers a failure for cudaGetLastError.
cudaError_t Result(cudaError_t error);

// `work` may touch device memory.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);
// Runs what is on the stream, and on those that it waits for.
void Finish(cudaStream_t stream);
// Of every stream there is.
void FinishAll();
// Whether work runs though nobody waits for it.
bool StreamsRun();
// Whether the stream's work becomes nodes of a graph.
bool IsRecording(cudaStream_t stream);

// Calls that may not be made while this thread, or any thread that says so, records a stream; such
// a call spoils the recording.
cudaError_t CheckNotRecording();

}  // namespace polystrate::emulator
