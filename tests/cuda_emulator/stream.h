// Streams, events and graphs. Work runs when it is enqueued; on a stream that is recorded it
// becomes a node of the graph instead.
#pragma once

#include <chrono>
#include <functional>
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
  polystrate::emulator::Capture* capture = nullptr;
  bool unjoined = false;  // has recorded something that the origin does not wait for
};

struct CUevent_st {
  bool timed = true;
  bool recorded = false;
  std::chrono::steady_clock::time_point at;
  polystrate::emulator::Capture* capture = nullptr;  // in which it was recorded
  CUstream_st* stream = nullptr;
};

namespace polystrate::emulator {

// Remembers a failure for cudaGetLastError.
cudaError_t Result(cudaError_t error);

// Runs or records `work`, which may touch device memory.
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work);

// Calls that may not be made while this thread, or any thread that says so, records a stream; such
// a call spoils the recording.
cudaError_t CheckNotRecording();

}  // namespace polystrate::emulator
