// DecodeGraphs: a stage's decode steps on a GPU, recorded by shape and replayed (StepGraph).
//
// A decode step has one token of each sequence, so its shape is two numbers. Plans are padded to
// few shapes; a row of padding writes no K and V (slot -1), attends to nothing (no context) and is
// not sampled.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step_inputs.h"
#include "engine/step_plan.h"
#include "kernels/core/device.h"
#include "kernels/core/step_graph.h"

namespace polystrate {

struct DecodeShape {
  int64_t num_seqs = 0;
  int64_t max_blocks = 0;

  bool operator<(const DecodeShape& other) const {
    return std::pair(num_seqs, max_blocks) < std::pair(other.num_seqs, other.max_blocks);
  }
};
// The smallest shape that is recorded and holds this many sequences of this many blocks: at most a
// quarter more sequences from 32 on, and the next power of two blocks.
DecodeShape PadDecodeShape(int64_t num_seqs, int64_t max_blocks);

class DecodeGraphs {
 public:
  // Larger steps gain nothing: the GPU is busy for longer than it takes to enqueue them.
  static constexpr int64_t kMaxSeqs = 512;

  // For steps of up to `max_rows` rows, padding and all, of sequences of up to `max_blocks` blocks.
  // Takes its device memory now.
  static absl::StatusOr<std::unique_ptr<DecodeGraphs>> Create(const Stream& stream,
                                                              int64_t max_rows, int64_t max_blocks,
                                                              int64_t block_size);

  // Whether the plan is a decode step of a shape that is recorded.
  bool Holds(const StepPlan& plan) const;

  // Enqueues work(inputs, rows) on the plan's inputs, padded, with `block_tables` of the padded
  // shape, which must lie where they lay for the shape before and are enqueued already; `rows`,
  // [inputs' tokens] int32, are the rows that the plan samples, then zeros. The first time a shape
  // is met it is run as it is, the second time recorded: `work` must do the same for every plan of
  // a shape, and reach what changes through tensors.
  using Work = std::function<void(const StepInputs& inputs, const Tensor& rows)>;
  void Run(const Stream& stream, const StepPlan& plan, const Tensor& block_tables,
           const Work& work);

  // For tests.
  int64_t num_replays() const { return num_replays_; }

 private:
  struct Recorded {
    bool met = false;
    std::unique_ptr<StepGraph> graph;
  };

  DecodeGraphs(int64_t max_rows, int64_t max_blocks, int64_t block_size);
  void Pack(const StepPlan& plan, const DecodeShape& shape);
  StepInputs Inputs(const DecodeShape& shape, Device device, Tensor* rows) const;

  const int64_t max_rows_;
  const int64_t max_blocks_;
  const int64_t block_size_;
  std::vector<int32_t> packed_;  // the padded arrays, one behind the other
  Buffer area_;                  // the same on the device, where graphs find them
  std::map<DecodeShape, Recorded> recorded_;
  int64_t num_replays_ = 0;
};

}  // namespace polystrate
