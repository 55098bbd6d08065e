// GraphRecorder: a stream's work as CUDA graphs with host functions between them (StepGraph).
#pragma once

#include <functional>
#include <vector>

struct CUgraphExec_st;  // *: cudaGraphExec_t
struct CUstream_st;     // *: cudaStream_t

namespace polystrate {

class GraphRecorder {
 public:
  GraphRecorder() = default;
  ~GraphRecorder();
  GraphRecorder(const GraphRecorder&) = delete;
  GraphRecorder& operator=(const GraphRecorder&) = delete;

  // Between the two, what is enqueued on the stream is recorded.
  void Begin(CUstream_st* stream);
  void End();
  // Ends the graph so far, remembers `work`, begins the next graph.
  void OnHost(std::function<void()> work);

  void Replay(CUstream_st* stream) const;

 private:
  struct Part {
    CUgraphExec_st* graph = nullptr;  // null: nothing was enqueued
    std::function<void()> on_host;    // after it; empty at the end
  };

  CUstream_st* stream_ = nullptr;  // while it is recorded
  std::vector<Part> parts_;
};

}  // namespace polystrate
