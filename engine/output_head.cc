#include "engine/output_head.h"

#include <algorithm>

#include "engine/transformer.h"
#include "kernels/core/copy.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Behind those of the results before. Returns how many there are.
int32_t AddCandidates(const ScoreResult& scored, StepResult* result) {
  const auto begin = scored.candidates.begin();
  const auto end = std::find_if(begin, scored.candidates.end(),
                                [](const TokenLogProb& c) { return c.token_id < 0; });
  result->candidates.insert(result->candidates.end(), begin, end);
  return static_cast<int32_t>(end - begin);
}

template <typename Result>
size_t CountCandidates(const Result* results, size_t count) {
  size_t candidates = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto& list = results[i].candidates;
    candidates += std::count_if(list.begin(), list.end(),
                                [](const TokenLogProb& c) { return c.token_id >= 0; });
  }
  return candidates;
}

}  // namespace

OutputHead::OutputHead(const RankContext& rank, const ModelConfig& config,
                       const StageWeights& weights, const Activations& scratch)
    : rank_(rank), config_(config), weights_(weights), scratch_(scratch) {}

absl::StatusOr<std::unique_ptr<OutputHead>> OutputHead::Create(const RankContext& rank,
                                                               const ModelConfig& config,
                                                               const StageWeights& weights,
                                                               const Activations& scratch,
                                                               int64_t max_rows) {
  std::unique_ptr<OutputHead> head(new OutputHead(rank, config, weights, scratch));
  const int64_t score_bytes = max_rows * static_cast<int64_t>(sizeof(ScoreResult));
  const int64_t sample_bytes = max_rows * static_cast<int64_t>(sizeof(SampleResult));
  const int64_t num_bytes = kMaxPending * (score_bytes + sample_bytes);
  const bool on_gpu = rank.stream.device().type == DeviceType::kCuda;
  ASSIGN_OR_RETURN(head->results_, on_gpu ? Buffer::AllocatePinned(num_bytes)
                                          : Buffer::Allocate(Device{}, num_bytes));
  const Device device = rank.stream.device();
  ASSIGN_OR_RETURN(head->drawn_buffer_, Buffer::Allocate(device, max_rows * SizeOf(DType::kInt32)));
  head->drawn_ = Tensor(head->drawn_buffer_.data(), DType::kInt32, device, {max_rows});
  char* next = static_cast<char*>(head->results_.data());
  for (Pending& pending : head->pending_) {
    pending.scores = reinterpret_cast<ScoreResult*>(next);
    pending.samples = reinterpret_cast<SampleResult*>(next + score_bytes);
    next += score_bytes + sample_bytes;
    pending.scored.reserve(max_rows);
    pending.sampled.reserve(max_rows);
  }
  const int64_t rows = scratch.max_logit_rows();
  head->rows_.reserve(rows);
  head->score_rows_.reserve(rows);
  head->sample_rows_.reserve(rows);
  return head;
}

void OutputHead::ComputeLogits(const Tensor& hidden, const Tensor& rows) {
  const Stream& stream = rank_.stream;
  const int64_t n = rows.dim(0);
  const Tensor chosen = scratch_.logit_hidden.Rows(0, n);
  const Tensor normed = scratch_.logit_normed.Rows(0, n);
  const Tensor shard = scratch_.logit_shard.Rows(0, n);
  EmbeddingLookup(stream, rows, hidden, /*vocab_begin=*/0, chosen);  // gathers rows
  NormGemm(stream, chosen, normed,
           {NormOf(config_, weights_.final_norm), weights_.lm_head, /*bias=*/Tensor(), shard});
  const int64_t tp_size = rank_.topology.config.tp_size;
  if (tp_size == 1) return;  // the shard is all
  // tp_rank 0 sees the parts of all ranks as [tp_size, n, vocab share].
  const Tensor parts(scratch_.logit_parts.raw(), DType::kFloat32, stream.device(),
                     {tp_size, n, weights_.vocab.padded});
  rank_.groups.tp->Gather(stream, shard, parts, /*root=*/0);
  if (rank_.topology.tp_rank() == 0) ConcatColumns(stream, parts, scratch_.logits.Rows(0, n));
}

OutputHead::Pending& OutputHead::Begin(const StepPlan& plan) {
  Pending& pending = pending_[begun_ % kMaxPending];
  if (!rank_.sampler()) return pending;
  CHECK_LT(begun_ - taken_, static_cast<uint64_t>(kMaxPending));
  ++begun_;
  pending.step_id = plan.step_id;
  pending.scored.clear();
  for (const ScorePoint& point : plan.scores) {
    pending.scored.push_back({point.sequence_id, point.position});
  }
  pending.sampled.clear();
  for (const SamplePoint& point : plan.samples) {
    pending.sampled.push_back({point.sequence_id, static_cast<int64_t>(point.params.position)});
  }
  return pending;
}

void OutputHead::Run(const StepPlan& plan, const WantedRows& wanted, const Tensor& hidden) {
  const Pending& pending = Begin(plan);
  Score(plan, wanted, hidden, pending);
  const auto max_rows = static_cast<size_t>(scratch_.max_logit_rows());
  for (size_t begin = 0; begin < plan.samples.size(); begin += max_rows) {
    const size_t n = std::min(max_rows, plan.samples.size() - begin);
    rows_.clear();
    for (size_t i = 0; i < n; ++i) rows_.push_back(wanted.Locate(plan.samples[begin + i].row));
    ComputeLogits(hidden, Upload(rank_.stream, rows_, {static_cast<int64_t>(n)}));
    if (rank_.sampler()) Sample(plan, begin, n, pending);
  }
  ShareDrawn(plan);
}

void OutputHead::SampleFromLogits(const StepPlan& plan) {
  const Pending& pending = Begin(plan);
  if (rank_.sampler()) Sample(plan, 0, plan.samples.size(), pending);
  ShareDrawn(plan);
}

void OutputHead::Score(const StepPlan& plan, const WantedRows& wanted, const Tensor& hidden,
                       const Pending& pending) {
  const auto max_rows = static_cast<size_t>(scratch_.max_logit_rows());
  for (size_t begin = 0; begin < plan.scores.size(); begin += max_rows) {
    const size_t n = std::min(max_rows, plan.scores.size() - begin);
    rows_.clear();
    score_rows_.clear();
    for (size_t i = 0; i < n; ++i) {
      rows_.push_back(wanted.Locate(plan.scores[begin + i].row));
      score_rows_.push_back(plan.scores[begin + i].params);
    }
    ComputeLogits(hidden, Upload(rank_.stream, rows_, {static_cast<int64_t>(n)}));
    if (!rank_.sampler()) continue;
    polystrate::Score(rank_.stream, scratch_.logits.Rows(0, static_cast<int64_t>(n)),
                      config_.vocab_size, score_rows_, {pending.scores + begin, n});
  }
}

void OutputHead::Sample(const StepPlan& plan, size_t begin, size_t n, const Pending& pending) {
  sample_rows_.clear();
  for (size_t i = 0; i < n; ++i) sample_rows_.push_back(plan.samples[begin + i].params);
  const auto num_rows = static_cast<int64_t>(n);
  polystrate::Sample(rank_.stream, scratch_.logits.Rows(0, num_rows), config_.vocab_size,
                     sample_rows_, {pending.samples + begin, n}, {plan.history, plan.biases},
                     plan.feed ? drawn_.Rows(static_cast<int64_t>(begin), num_rows) : Tensor());
}

// Every rank of the stage looks its share of the vocabulary up for the next step.
void OutputHead::ShareDrawn(const StepPlan& plan) {
  if (!plan.feed || plan.samples.empty() || rank_.topology.config.tp_size == 1) return;
  rank_.groups.tp->Broadcast(rank_.stream,
                             drawn_.Rows(0, static_cast<int64_t>(plan.samples.size())), /*root=*/0);
}

StepResult OutputHead::Take() {
  CHECK_LT(taken_, begun_);
  const Pending& pending = pending_[taken_++ % kMaxPending];
  StepResult result;
  result.step_id = pending.step_id;
  result.scores.reserve(pending.scored.size());
  result.samples.reserve(pending.sampled.size());
  result.candidates.reserve(CountCandidates(pending.scores, pending.scored.size()) +
                            CountCandidates(pending.samples, pending.sampled.size()));
  for (size_t i = 0; i < pending.scored.size(); ++i) {
    const ScoreResult& scored = pending.scores[i];
    result.scores.push_back({pending.scored[i].sequence_id, pending.scored[i].position,
                             scored.logprob, scored.rank, AddCandidates(scored, &result)});
  }
  for (size_t i = 0; i < pending.sampled.size(); ++i) {
    const SampleResult& sampled = pending.samples[i];
    result.samples.push_back({pending.sampled[i].sequence_id, pending.sampled[i].position,
                              sampled.token_id, sampled.logprob, sampled.rank,
                              AddCandidates(sampled, &result)});
  }
  return result;
}

}  // namespace polystrate
