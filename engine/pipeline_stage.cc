#include "engine/pipeline_stage.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// A plan's host arrays as tensors; the operators only read them.
Tensor HostTensor(const std::vector<int32_t>& values, std::initializer_list<int64_t> dims) {
  return Tensor(const_cast<int32_t*>(values.data()), DType::kInt32, Device{}, dims);
}

StepInputs MakeInputs(const StepPlan& plan) {
  const int64_t num_tokens = plan.num_tokens();
  const int64_t num_seqs = plan.num_seqs();
  StepInputs inputs;
  inputs.token_ids = HostTensor(plan.token_ids, {num_tokens});
  inputs.positions = HostTensor(plan.positions, {num_tokens});
  inputs.slot_mapping = HostTensor(plan.slot_mapping, {num_tokens});
  inputs.batch.cu_seqlens_q = HostTensor(plan.cu_seqlens_q, {num_seqs + 1});
  inputs.batch.context_lens = HostTensor(plan.context_lens, {num_seqs});
  inputs.batch.block_tables = HostTensor(plan.block_tables, {num_seqs, plan.max_blocks});
  return inputs;
}

// How many candidates the plan asks for.
size_t NumCandidates(const StepPlan& plan) {
  size_t count = 0;
  for (const ScorePoint& point : plan.scores) count += point.params.num_candidates;
  for (const SamplePoint& point : plan.samples) {
    count += std::max(point.params.num_candidates, 0);  // kLogProbOnly is none
  }
  return count;
}

// Behind those of the results before. Returns how many there are.
int32_t AddCandidates(const ScoreResult& scored, StepResult* result) {
  const auto begin = scored.candidates.begin();
  const auto end = std::find_if(begin, scored.candidates.end(),
                                [](const TokenLogProb& c) { return c.token_id < 0; });
  result->candidates.insert(result->candidates.end(), begin, end);
  return static_cast<int32_t>(end - begin);
}

}  // namespace

PipelineStage::PipelineStage(const RankContext& rank, const ModelConfig& config,
                             const StageOptions& options, StageWeights weights)
    : rank_(rank), config_(config), options_(options), weights_(std::move(weights)) {
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    if (weights_.layers[i].owner) last_owner_ = i;
  }
}

absl::StatusOr<std::unique_ptr<PipelineStage>> PipelineStage::Create(const RankContext& rank,
                                                                     const ModelConfig& config,
                                                                     const Stage& stage,
                                                                     StageWeights weights,
                                                                     const StageOptions& options) {
  const Device device = rank.stream.device();
  std::unique_ptr<PipelineStage> self(new PipelineStage(rank, config, options, std::move(weights)));
  const KvCacheShape shape{options.num_blocks, options.block_size, self->weights_.heads.kv_count,
                           config.head_dim, options.dtype};
  ASSIGN_OR_RETURN(self->kv_cache_, KvCache::Create(shape, config.sharing, stage, device));
  ASSIGN_OR_RETURN(self->pool_,
                   ActivationPool::Create(config, self->weights_, rank.topology,
                                          options.max_num_batched_tokens, options.dtype, device));
  const int64_t rope_bytes = options.max_model_len * config.rotary_dim * SizeOf(DType::kFloat32);
  ASSIGN_OR_RETURN(self->rope_buffer_, Buffer::Allocate(device, rope_bytes));
  self->rope_.rotary_dim = config.rotary_dim;
  self->rope_.cos_sin = Tensor(self->rope_buffer_.data(), DType::kFloat32, device,
                               {options.max_model_len, config.rotary_dim});
  FillRopeTable(ScaledFrequencies(config.rope_base, config.rotary_dim, config.rope_scaling),
                static_cast<float>(config.rope_scaling.attention_factor), self->rope_);
  self->wanted_.Reserve(options.max_num_batched_tokens);
  return self;
}

TransformerContext PipelineStage::Context() const {
  return {rank_.stream, *rank_.groups.tp, config_, weights_, kv_cache_, rope_};
}

std::optional<StepResult> PipelineStage::Run(const StepPlan& plan) {
  const Topology& topology = rank_.topology;
  const StepInputs inputs = MakeInputs(plan);
  const Activations a = pool_.all.ForStep(plan.num_tokens());
  RankActivity& activity = *rank_.groups.activity;

  activity.BeginStep(plan.step_id, plan.num_seqs(), plan.num_tokens());
  EmbedOrReceive(inputs, a);
  const int64_t begin_ns = Timeline::NowNs();  // waiting for the stage before is not work
  std::optional<StepResult> result;
  if (topology.last_stage()) {
    result = RunLastStage(plan, inputs, a);
  } else {
    for (const LayerWeights& layer : weights_.layers) DecoderLayer(Context(), layer, inputs, a);
    rank_.groups.pp->Send(rank_.stream, a.hidden, topology.pp_rank() + 1);
  }
  timeline_.Add(
      {plan.step_id, static_cast<int32_t>(plan.num_tokens()), begin_ns, Timeline::NowNs()});
  activity.EndStep();
  if (topology.rank != topology.sampler_rank()) return std::nullopt;
  return result;
}

void PipelineStage::EmbedOrReceive(const StepInputs& inputs, const Activations& a) {
  const Topology& topology = rank_.topology;
  if (!topology.first_stage()) {
    rank_.groups.pp->Recv(rank_.stream, a.hidden, topology.pp_rank() - 1);
    return;
  }
  EmbeddingLookup(rank_.stream, inputs.token_ids, weights_.embedding,
                  static_cast<int32_t>(weights_.vocab.begin), a.hidden);
  rank_.groups.tp->AllReduceSum(rank_.stream, a.hidden);
}

StepResult PipelineStage::RunLastStage(const StepPlan& plan, const StepInputs& inputs,
                                       const Activations& a) {
  if (options_.prefill_skip) wanted_.Find(plan);
  const TransformerContext context = Context();
  if (wanted_.all) {
    for (const LayerWeights& layer : weights_.layers) DecoderLayer(context, layer, inputs, a);
    return ScoreAndSample(plan, a);
  }
  for (size_t i = 0; i < last_owner_; ++i) DecoderLayer(context, weights_.layers[i], inputs, a);
  WriteKeysAndValues(context, weights_.layers[last_owner_], inputs, a);
  const Activations wanted = pool_.all.ForGatheredRows(static_cast<int64_t>(wanted_.rows.size()));
  if (!wanted_.rows.empty()) RunWantedRows(inputs, a.hidden, wanted);
  return ScoreAndSample(plan, wanted);
}

// The last owner from its query on and all above it, of rows of `hidden`.
void PipelineStage::RunWantedRows(const StepInputs& inputs, const Tensor& hidden,
                                  const Activations& wanted) {
  const int64_t n = wanted.hidden.dim(0);
  const TransformerContext context = Context();
  StepInputs rest;  // neither tokens nor slots: nothing is embedded or stored from here on
  rest.positions = HostTensor(wanted_.positions, {n});
  rest.batch = inputs.batch;
  rest.batch.cu_seqlens_q = HostTensor(wanted_.cu_seqlens_q, {inputs.batch.cu_seqlens_q.dim(0)});
  EmbeddingLookup(rank_.stream, HostTensor(wanted_.rows, {n}), hidden, /*vocab_begin=*/0,
                  wanted.hidden);  // gathers rows
  DecoderLayerFromQuery(context, weights_.layers[last_owner_], rest, wanted);
  for (size_t i = last_owner_ + 1; i < weights_.layers.size(); ++i) {
    DecoderLayer(context, weights_.layers[i], rest, wanted);
  }
}

// Logits of the given rows, into the first rows of logits() on the sampler's rank.
void PipelineStage::ComputeLogits(const Activations& a, absl::Span<const int32_t> rows) {
  const Stream& stream = rank_.stream;
  const Activations& all = pool_.all;
  const int64_t n = static_cast<int64_t>(rows.size());
  const Tensor row_ids(const_cast<int32_t*>(rows.data()), DType::kInt32, Device{}, {n});
  const Tensor hidden = all.logit_hidden.Rows(0, n);
  const Tensor normed = all.logit_normed.Rows(0, n);
  const Tensor shard = all.logit_shard.Rows(0, n);
  EmbeddingLookup(stream, row_ids, a.hidden, /*vocab_begin=*/0, hidden);  // gathers rows
  Norm(stream, config_, weights_.final_norm, hidden, normed);
  Gemm(stream, normed, weights_.lm_head, /*bias=*/Tensor(), shard);
  // tp_rank 0 sees the parts of all ranks as [tp_size, n, vocab share].
  const int64_t tp_size = rank_.topology.config.tp_size;
  const Tensor parts(all.logit_parts.raw(), DType::kFloat32, stream.device(),
                     {tp_size, n, weights_.vocab.padded});
  rank_.groups.tp->Gather(stream, shard, parts, /*root=*/0);
  if (rank_.topology.tp_rank() == 0) ConcatColumns(stream, parts, all.logits.Rows(0, n));
}

StepResult PipelineStage::ScoreAndSample(const StepPlan& plan, const Activations& a) {
  const bool sampler = rank_.topology.rank == rank_.topology.sampler_rank();
  StepResult result;
  result.step_id = plan.step_id;
  result.samples.reserve(sampler ? plan.samples.size() : 0);
  result.scores.reserve(sampler ? plan.scores.size() : 0);
  result.candidates.reserve(sampler ? NumCandidates(plan) : 0);
  ScoreRows(plan, a, &result);
  SampleRows(plan, a, &result);
  return result;
}

void PipelineStage::ScoreRows(const StepPlan& plan, const Activations& a, StepResult* result) {
  constexpr size_t kMaxRows = Activations::kMaxLogitRows;
  for (size_t begin = 0; begin < plan.scores.size(); begin += kMaxRows) {
    const size_t n = std::min(kMaxRows, plan.scores.size() - begin);
    int32_t rows[kMaxRows];
    ScoreRow params[kMaxRows];
    ScoreResult scored[kMaxRows];
    for (size_t i = 0; i < n; ++i) {
      rows[i] = wanted_.Locate(plan.scores[begin + i].row);
      params[i] = plan.scores[begin + i].params;
    }
    ComputeLogits(a, {rows, n});
    if (rank_.topology.rank != rank_.topology.sampler_rank()) continue;
    Score(rank_.stream, logits().Rows(0, n), config_.vocab_size, {params, n}, {scored, n});
    for (size_t i = 0; i < n; ++i) {
      const ScorePoint& point = plan.scores[begin + i];
      result->scores.push_back({point.sequence_id, point.position, scored[i].logprob,
                                scored[i].rank, AddCandidates(scored[i], result)});
    }
  }
}

void PipelineStage::SampleRows(const StepPlan& plan, const Activations& a, StepResult* result) {
  constexpr size_t kMaxRows = Activations::kMaxLogitRows;
  for (size_t begin = 0; begin < plan.samples.size(); begin += kMaxRows) {
    const size_t n = std::min(kMaxRows, plan.samples.size() - begin);
    int32_t rows[kMaxRows];
    SampleRow params[kMaxRows];
    SampleResult sampled[kMaxRows];
    for (size_t i = 0; i < n; ++i) {
      rows[i] = wanted_.Locate(plan.samples[begin + i].row);
      params[i] = plan.samples[begin + i].params;
    }
    ComputeLogits(a, {rows, n});
    if (rank_.topology.rank != rank_.topology.sampler_rank()) continue;
    Sample(rank_.stream, logits().Rows(0, n), config_.vocab_size, {params, n}, {sampled, n},
           {plan.history, plan.biases});
    for (size_t i = 0; i < n; ++i) {
      const SamplePoint& point = plan.samples[begin + i];
      result->samples.push_back({point.sequence_id, static_cast<int64_t>(point.params.position),
                                 sampled[i].token_id, sampled[i].logprob, sampled[i].rank,
                                 AddCandidates(sampled[i], result)});
    }
  }
}

absl::Status PipelineStage::AgreeOnHandover() {
  const Topology& topology = rank_.topology;
  Communicator& pp = *rank_.groups.pp;
  const std::string mine =
      absl::StrCat("float32 [<= ", options_.max_num_batched_tokens, ", ", config_.hidden_size, "]");
  if (!topology.last_stage()) SendBytes(pp, {mine.begin(), mine.end()}, topology.pp_rank() + 1);
  if (topology.first_stage()) return absl::OkStatus();
  const std::vector<uint8_t> bytes = RecvBytes(pp, topology.pp_rank() - 1);
  const std::string theirs(bytes.begin(), bytes.end());
  if (theirs == mine) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      "stage ", topology.pp_rank() - 1, " hands over hidden states as ", theirs, ", stage ",
      topology.pp_rank(), " expects ", mine, "; start all ranks with the same flags and binary"));
}

}  // namespace polystrate
