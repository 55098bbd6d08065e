#include "kernels/cuda/graph_recorder.h"

#include <cuda_runtime.h>

#include <utility>

#include "kernels/core/step_graph.h"
#include "kernels/cuda/check_cuda.h"
#include "kernels/cuda/context.h"

namespace polystrate {
namespace {

// The graph that was captured, ready to run; null when it is empty.
cudaGraphExec_t EndCapture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  size_t num_nodes = 0;
  CHECK_CUDA(cudaGraphGetNodes(graph, nullptr, &num_nodes));
  cudaGraphExec_t ready = nullptr;
  if (num_nodes > 0) CHECK_CUDA(cudaGraphInstantiate(&ready, graph, 0));
  CHECK_CUDA(cudaGraphDestroy(graph));
  return ready;
}

}  // namespace

GraphRecorder::~GraphRecorder() {
  for (const Part& part : parts_) {
    if (part.graph != nullptr) cudaGraphExecDestroy(part.graph);
  }
}

void GraphRecorder::Begin(CUstream_st* stream) {
  stream_ = stream;
  // Relaxed: another thread's unrelated CUDA call, as NCCL makes, does not spoil the capture.
  CHECK_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
}

void GraphRecorder::End() {
  parts_.push_back({EndCapture(stream_), {}});
  stream_ = nullptr;
}

void GraphRecorder::OnHost(std::function<void()> work) {
  parts_.push_back({EndCapture(stream_), std::move(work)});
  Begin(stream_);
}

void GraphRecorder::Replay(CUstream_st* stream) const {
  for (const Part& part : parts_) {
    if (part.graph != nullptr) CHECK_CUDA(cudaGraphLaunch(part.graph, stream));
    if (part.on_host) part.on_host();
  }
}

StepGraph::StepGraph(const Stream& stream, const std::function<void()>& work)
    : recorded_(std::make_unique<GraphRecorder>()) {
  CudaContext& context = stream.cuda();
  CHECK(context.recorder() == nullptr);
  context.set_recorder(recorded_.get());
  recorded_->Begin(context.stream());
  work();
  recorded_->End();
  context.set_recorder(nullptr);
}

StepGraph::~StepGraph() = default;

void StepGraph::Replay(const Stream& stream) const { recorded_->Replay(stream.cuda().stream()); }

}  // namespace polystrate
