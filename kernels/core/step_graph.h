// StepGraph: what a step enqueues on a GPU, recorded once and replayed with one call (CUDA graphs),
// so that the host's part of a decode step does not grow with the number of operators.
//
// Recorded operators find their tensors where they were: a replay sees what lies there then. Host
// arrays (CudaContext::Upload) cannot be recorded. What the host itself must do in between, such as
// a collective over MPI, is given to Stream::OnHost and breaks the graph in two there.
#pragma once

#include <functional>
#include <memory>

#include "kernels/core/device.h"

namespace polystrate {

class GraphRecorder;  // kernels/cuda/graph_recorder.h

class StepGraph {
 public:
  // Calls `work`, which enqueues on `stream`, a GPU's, and records that instead of running it. The
  // same work must have run once before: memory that operators take as they go they take then.
  StepGraph(const Stream& stream, const std::function<void()>& work);
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  // Enqueues it all; runs what was given to OnHost, in its turn, before it returns.
  void Replay(const Stream& stream) const;

 private:
  std::unique_ptr<GraphRecorder> recorded_;
};

}  // namespace polystrate
