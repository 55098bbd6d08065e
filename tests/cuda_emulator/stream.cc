#include "tests/cuda_emulator/stream.h"

#include <mutex>
#include <utility>

#include "tests/cuda_emulator/memory.h"

namespace polystrate::emulator {
namespace {

std::mutex captures_mutex;
std::vector<Capture*> global_captures;              // of every thread
thread_local std::vector<Capture*> local_captures;  // this thread's, but for relaxed ones

cudaError_t Refuse(Capture* capture, cudaError_t error) {
  capture->invalid = true;
  return Result(error);
}

}  // namespace

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->capture != nullptr) {
    if (stream->capture->invalid) return Result(cudaErrorStreamCaptureInvalidated);
    stream->capture->graph->nodes.push_back(std::move(work));
    stream->unjoined = stream != stream->capture->origin;
    return cudaSuccess;
  }
  const DeviceAccess access;
  work();
  return cudaSuccess;
}

cudaError_t CheckNotRecording() {
  const std::lock_guard<std::mutex> lock(captures_mutex);
  if (local_captures.empty() && global_captures.empty()) return cudaSuccess;
  for (Capture* capture : local_captures) capture->invalid = true;
  for (Capture* capture : global_captures) capture->invalid = true;
  return Result(cudaErrorStreamCaptureUnsupported);
}

}  // namespace polystrate::emulator

using polystrate::emulator::Capture;
using polystrate::emulator::CheckNotRecording;
using polystrate::emulator::Enqueue;
using polystrate::emulator::Refuse;
using polystrate::emulator::Result;

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return Result(cudaGetDevice(&(*stream)->device));
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Result(cudaErrorInvalidResourceHandle);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream != nullptr && stream->capture != nullptr) {
    return Refuse(stream->capture, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaDeviceSynchronize() { return CheckNotRecording(); }
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return Enqueue(stream, [=] { function(argument); });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return Result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->capture = stream == nullptr ? nullptr : stream->capture;
  if (event->capture == nullptr) {
    event->recorded = true;
    event->at = std::chrono::steady_clock::now();
  }
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture != nullptr) return Refuse(event->capture, cudaErrorCapturedEvent);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  return cudaEventSynchronize(event);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->timed || !end->timed || !begin->recorded || !end->recorded) {
    return Result(cudaErrorInvalidResourceHandle);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Capture* recording = stream == nullptr ? nullptr : stream->capture;
  if (event->capture == nullptr) {  // what is not in the graph cannot be waited for in it
    if (recording == nullptr || !event->recorded) return cudaSuccess;
    return Refuse(recording, cudaErrorStreamCaptureIsolation);
  }
  if (recording == nullptr) {
    if (stream == nullptr) return Refuse(event->capture, cudaErrorStreamCaptureUnsupported);
    stream->capture = event->capture;
    stream->unjoined = true;
    event->capture->streams.push_back(stream);
  } else if (recording != event->capture) {
    recording->invalid = true;
    return Refuse(event->capture, cudaErrorStreamCaptureMerge);
  }
  if (event->stream != stream) event->stream->unjoined = false;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  using namespace polystrate::emulator;
  if (stream == nullptr) return Result(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr) return Result(cudaErrorInvalidValue);
  stream->capture = new Capture{mode, stream, {stream}, new CUgraph_st};
  const std::lock_guard<std::mutex> lock(captures_mutex);
  if (mode == cudaStreamCaptureModeGlobal) global_captures.push_back(stream->capture);
  if (mode != cudaStreamCaptureModeRelaxed) local_captures.push_back(stream->capture);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  using namespace polystrate::emulator;
  *graph = nullptr;
  Capture* capture = stream == nullptr ? nullptr : stream->capture;
  if (capture == nullptr) return Result(cudaErrorInvalidValue);
  if (capture->origin != stream) return Refuse(capture, cudaErrorStreamCaptureUnmatched);
  {
    const std::lock_guard<std::mutex> lock(captures_mutex);
    std::erase(global_captures, capture);
    std::erase(local_captures, capture);
  }
  bool unjoined = false;
  for (CUstream_st* joined : capture->streams) {
    unjoined = unjoined || joined->unjoined;
    joined->capture = nullptr;
    joined->unjoined = false;
  }
  const bool invalid = capture->invalid;
  CUgraph_st* recorded = capture->graph;
  delete capture;
  if (invalid || unjoined) {
    delete recorded;
    return Result(invalid ? cudaErrorStreamCaptureInvalidated : cudaErrorStreamCaptureUnjoined);
  }
  *graph = recorded;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Capture* capture = stream == nullptr ? nullptr : stream->capture;
  *status = capture == nullptr ? cudaStreamCaptureStatusNone
            : capture->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* num_nodes) {
  if (nodes != nullptr) return Result(cudaErrorNotSupported);
  *num_nodes = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return Enqueue(stream, [nodes = exec->nodes] {
    for (const auto& node : nodes) node();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
