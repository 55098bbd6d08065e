#include "engine/decode_graphs.h"

#include <algorithm>
#include <bit>

#include "kernels/core/copy.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Arrays with an element for each sequence: tokens, positions, slots, context lengths, rows; and
// one with one more, the queries' offsets.
int64_t PackedSize(const DecodeShape& shape) { return 6 * shape.num_seqs + 1; }

}  // namespace

DecodeShape PadDecodeShape(int64_t num_seqs, int64_t max_blocks) {
  int64_t step = 1;
  if (num_seqs > 8) step = 8;
  if (num_seqs > 64) step = 16;
  if (num_seqs > 128) step = 32;
  DecodeShape shape;
  shape.num_seqs = num_seqs <= 8
                       ? static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_seqs)))
                       : (num_seqs + step - 1) / step * step;
  shape.max_blocks = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(max_blocks)));
  return shape;
}

DecodeGraphs::DecodeGraphs(int64_t max_rows, int64_t max_blocks, int64_t block_size)
    : max_rows_(std::min(max_rows, kMaxSeqs)), max_blocks_(max_blocks), block_size_(block_size) {}

absl::StatusOr<std::unique_ptr<DecodeGraphs>> DecodeGraphs::Create(const Stream& stream,
                                                                   int64_t max_rows,
                                                                   int64_t max_blocks,
                                                                   int64_t block_size) {
  std::unique_ptr<DecodeGraphs> graphs(new DecodeGraphs(max_rows, max_blocks, block_size));
  const int64_t size = PackedSize(PadDecodeShape(graphs->max_rows_, max_blocks));
  graphs->packed_.reserve(static_cast<size_t>(size));
  ASSIGN_OR_RETURN(graphs->area_, Buffer::Allocate(stream.device(), size * SizeOf(DType::kInt32)));
  return graphs;
}

bool DecodeGraphs::Holds(const StepPlan& plan) const {
  if (plan.num_tokens() != plan.num_seqs() || plan.num_seqs() == 0) return false;
  if (PadDecodeShape(plan.num_seqs(), plan.max_blocks).num_seqs > max_rows_) return false;
  return plan.max_blocks <= max_blocks_ && plan.scores.empty() &&
         plan.samples.size() <= plan.context_lens.size();
}

void DecodeGraphs::Run(const Stream& stream, const StepPlan& plan, const Tensor& block_tables,
                       const Work& work) {
  const DecodeShape shape = PadDecodeShape(plan.num_seqs(), plan.max_blocks);
  Tensor rows;
  StepInputs inputs = Inputs(shape, stream.device(), &rows);
  inputs.batch.block_tables = block_tables;
  Pack(plan, shape);
  const auto size = static_cast<int64_t>(packed_.size());
  // From the host at once: what copies within a device may be a kernel, and kernels overlap, while
  // some read these before what is in front of them has ended (AttentionBatch).
  UploadTo(stream, packed_, Tensor(area_.data(), DType::kInt32, stream.device(), {size}));

  Recorded& recorded = recorded_[shape];
  if (!recorded.met) {
    recorded.met = true;
    return work(inputs, rows);
  }
  if (recorded.graph == nullptr) {
    recorded.graph = std::make_unique<StepGraph>(stream, [&] { work(inputs, rows); });
  }
  recorded.graph->Replay(stream);
  ++num_replays_;
}

void DecodeGraphs::Pack(const StepPlan& plan, const DecodeShape& shape) {
  const auto padding = static_cast<size_t>(shape.num_seqs - plan.num_seqs());
  packed_.clear();
  const auto append = [&](const std::vector<int32_t>& values, int32_t filler) {
    packed_.insert(packed_.end(), values.begin(), values.end());
    packed_.insert(packed_.end(), padding, filler);
  };
  append(plan.token_ids, 0);
  append(plan.positions, 0);
  append(plan.slot_mapping, -1);
  append(plan.context_lens, 0);
  for (const SamplePoint& point : plan.samples) packed_.push_back(point.row);
  packed_.insert(packed_.end(), shape.num_seqs - plan.samples.size(), 0);
  for (int32_t i = 0; i <= shape.num_seqs; ++i) packed_.push_back(i);
  CHECK_EQ(static_cast<int64_t>(packed_.size()), PackedSize(shape));
}

StepInputs DecodeGraphs::Inputs(const DecodeShape& shape, Device device, Tensor* rows) const {
  const int64_t n = shape.num_seqs;
  auto* next = static_cast<int32_t*>(area_.data());
  const auto take = [&](std::initializer_list<int64_t> dims) {
    const Tensor tensor(next, DType::kInt32, device, dims);
    next += tensor.num_elements();
    return tensor;
  };
  StepInputs inputs;
  inputs.token_ids = take({n});
  inputs.positions = take({n});
  inputs.slot_mapping = take({n});
  inputs.batch.context_lens = take({n});
  *rows = take({n});
  inputs.batch.cu_seqlens_q = take({n + 1});
  inputs.batch.max_seqlen_q = 1;
  inputs.batch.max_context_len = shape.max_blocks * block_size_;
  return inputs;
}

}  // namespace polystrate
