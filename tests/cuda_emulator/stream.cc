#include "tests/cuda_emulator/stream.h"

#include <cstdlib>
#include <string_view>
#include <utility>

#include "tests/cuda_emulator/memory.h"

namespace polystrate::emulator {
namespace {

std::mutex captures_mutex;
std::vector<Capture*> global_captures;              // of every thread
thread_local std::vector<Capture*> local_captures;  // this thread's, but for relaxed ones

std::mutex streams_mutex;
std::vector<CUstream_st*> all_streams;

bool IsSet(const char* variable, std::string_view value) {
  const char* set = std::getenv(variable);
  return set != nullptr && set == value;
}

bool Blocking() {
  static const bool blocking = IsSet("CUDA_LAUNCH_BLOCKING", "1");
  return blocking;
}

bool OwnThreads() {
  static const bool own_threads = IsSet("POLYSTRATE_EMULATED_STREAMS", "threads");
  return own_threads;
}

cudaError_t Refuse(Capture* capture, cudaError_t error) {
  capture->invalid = true;
  return Result(error);
}

// Runs what is enqueued first; false when there is nothing.
bool RunNext(cudaStream_t stream) {
  const std::lock_guard<std::recursive_mutex> lock(stream->mutex);
  if (stream->queue.empty()) return false;
  const std::function<void()> work = std::move(stream->queue.front());
  stream->queue.pop_front();
  const DeviceAccess access;
  work();
  return true;
}

// A stream's own thread.
void RunAll(cudaStream_t stream) {
  const DeviceAccess access;
  std::unique_lock<std::recursive_mutex> lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [stream] { return stream->ending || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    {
      const std::function<void()> work = std::move(stream->queue.front());
      lock.unlock();
      work();
    }
    lock.lock();
    stream->queue.pop_front();
    stream->changed.notify_all();
  }
}

// Until the stream has come to the event as it was recorded then.
void Reach(const CUevent_st::Progress& event, uint64_t num_recorded, cudaStream_t stream) {
  while (OwnThreads() && event.num_passed < num_recorded) {
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  while (event.num_passed < num_recorded && RunNext(stream)) {
  }
}

}  // namespace

cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream == nullptr) {
    const DeviceAccess access;
    work();
    return cudaSuccess;
  }
  if (IsRecording(stream)) {
    if (stream->capture->invalid) return Result(cudaErrorStreamCaptureInvalidated);
    stream->capture->graph->nodes.push_back(std::move(work));
    stream->unjoined = stream != stream->capture->origin;
    return cudaSuccess;
  }
  const std::lock_guard<std::recursive_mutex> lock(stream->mutex);
  stream->queue.push_back(std::move(work));
  stream->changed.notify_all();
  if (Blocking()) Finish(stream);
  return cudaSuccess;
}

void Finish(cudaStream_t stream) {
  if (OwnThreads()) {
    std::unique_lock<std::recursive_mutex> lock(stream->mutex);
    stream->changed.wait(lock, [stream] { return stream->queue.empty(); });
    return;
  }
  while (RunNext(stream)) {
  }
}

// Those of this thread: another's may wait for what this one is yet to do, as ranks that are
// threads do for each other in NCCL.
void FinishAll() {
  std::vector<CUstream_st*> own;
  {
    const std::lock_guard<std::mutex> lock(streams_mutex);
    for (CUstream_st* stream : all_streams) {
      if (stream->owner == std::this_thread::get_id()) own.push_back(stream);
    }
  }
  for (CUstream_st* stream : own) Finish(stream);
}

bool StreamsRun() { return Blocking() || OwnThreads(); }

bool IsRecording(cudaStream_t stream) { return stream != nullptr && stream->capture != nullptr; }

cudaError_t CheckNotRecording() {
  const std::lock_guard<std::mutex> lock(captures_mutex);
  if (local_captures.empty() && global_captures.empty()) return cudaSuccess;
  for (Capture* capture : local_captures) capture->invalid = true;
  for (Capture* capture : global_captures) capture->invalid = true;
  return Result(cudaErrorStreamCaptureUnsupported);
}

}  // namespace polystrate::emulator

using namespace polystrate::emulator;  // NOLINT: what follows is C's

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  if (OwnThreads()) (*stream)->runner = std::thread(RunAll, *stream);
  const std::lock_guard<std::mutex> lock(streams_mutex);
  all_streams.push_back(*stream);
  return Result(cudaGetDevice(&(*stream)->device));
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return Result(cudaErrorInvalidResourceHandle);
  Finish(stream);
  if (stream->runner.joinable()) {
    {
      const std::lock_guard<std::recursive_mutex> lock(stream->mutex);
      stream->ending = true;
      stream->changed.notify_all();
    }
    stream->runner.join();
  }
  const std::lock_guard<std::mutex> lock(streams_mutex);
  std::erase(all_streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (IsRecording(stream)) return Refuse(stream->capture, cudaErrorStreamCaptureUnsupported);
  if (stream != nullptr) Finish(stream);
  return cudaSuccess;
}
// Each look brings the stream one step on.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (IsRecording(stream)) return Refuse(stream->capture, cudaErrorStreamCaptureUnsupported);
  if (stream != nullptr && OwnThreads()) {
    const std::lock_guard<std::recursive_mutex> lock(stream->mutex);
    return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
  }
  return stream != nullptr && RunNext(stream) ? cudaErrorNotReady : cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  FinishAll();
  return cudaSuccess;
}
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
  if (event->capture != nullptr) return cudaSuccess;
  const uint64_t count = ++event->progress->num_recorded;
  return Enqueue(stream, [count, progress = event->progress] {
    progress->at = std::chrono::steady_clock::now();
    progress->num_passed = count;
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture != nullptr) return Refuse(event->capture, cudaErrorCapturedEvent);
  Reach(*event->progress, event->progress->num_recorded, event->stream);
  return cudaSuccess;
}
// Each look brings the event's stream one step on.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  if (event->capture != nullptr) return Refuse(event->capture, cudaErrorCapturedEvent);
  if (event->progress->num_passed == event->progress->num_recorded) return cudaSuccess;
  if (!OwnThreads()) RunNext(event->stream);
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  for (const CUevent_st* event : {begin, end}) {
    const CUevent_st::Progress& progress = *event->progress;
    if (!event->timed || progress.num_recorded == 0) return Result(cudaErrorInvalidResourceHandle);
    if (progress.num_passed < progress.num_recorded) return cudaErrorNotReady;
  }
  const auto between = end->progress->at - begin->progress->at;
  *milliseconds = std::chrono::duration<float, std::milli>(between).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Capture* recording = stream == nullptr ? nullptr : stream->capture;
  if (event->capture == nullptr) {  // what is not in the graph cannot be waited for in it
    const uint64_t count = event->progress->num_recorded;
    if (count == 0) return cudaSuccess;
    if (recording != nullptr) return Refuse(recording, cudaErrorStreamCaptureIsolation);
    return Enqueue(stream, [count, progress = event->progress, from = event->stream] {
      Reach(*progress, count, from);
    });
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
  if (stream == nullptr) return Result(cudaErrorStreamCaptureUnsupported);
  if (stream->capture != nullptr) return Result(cudaErrorInvalidValue);
  stream->capture = new Capture{mode, stream, {stream}, new CUgraph_st};
  const std::lock_guard<std::mutex> lock(captures_mutex);
  if (mode == cudaStreamCaptureModeGlobal) global_captures.push_back(stream->capture);
  if (mode != cudaStreamCaptureModeRelaxed) local_captures.push_back(stream->capture);
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
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
