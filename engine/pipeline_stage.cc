#include "engine/pipeline_stage.h"

#include <algorithm>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/core/copy.h"
#include "kernels/core/status.h"

namespace polystrate {

PipelineStage::PipelineStage(const RankContext& rank, const ModelConfig& config,
                             const StageOptions& options, StageWeights weights)
    : rank_(rank), config_(config), options_(options), weights_(std::move(weights)) {
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    if (weights_.layers[i].owner) last_owner_ = i;
  }
  for (auto& event : done_) event = std::make_unique<Event>(rank.stream.device());
}

absl::StatusOr<std::unique_ptr<PipelineStage>> PipelineStage::Create(const RankContext& rank,
                                                                     const ModelConfig& config,
                                                                     const Stage& stage,
                                                                     StageWeights weights,
                                                                     const StageOptions& options) {
  std::unique_ptr<PipelineStage> self(new PipelineStage(rank, config, options, std::move(weights)));
  RETURN_IF_ERROR(self->TakeMemory(stage));
  return self;
}

absl::Status PipelineStage::TakeMemory(const Stage& stage) {
  const Device device = rank_.stream.device();
  const KvCacheShape shape{options_.num_blocks, options_.block_size, weights_.heads.kv_count,
                           config_.head_dim, options_.dtype};
  ASSIGN_OR_RETURN(kv_cache_, KvCache::Create(shape, config_.sharing, stage, device));
  ASSIGN_OR_RETURN(pool_,
                   ActivationPool::Create(config_, weights_, rank_.topology,
                                          options_.max_num_batched_tokens, options_.dtype, device));
  const int64_t rope_bytes = options_.max_model_len * config_.rotary_dim * SizeOf(DType::kFloat32);
  const auto rope_at = [&](const Buffer& buffer, Device place) {
    return Tensor(buffer.data(), DType::kFloat32, place,
                  {options_.max_model_len, config_.rotary_dim});
  };
  ASSIGN_OR_RETURN(Buffer host_rope, Buffer::Allocate(Device{}, rope_bytes));
  rope_ = {rope_at(host_rope, Device{}), config_.rotary_dim};
  FillRopeTable(ScaledFrequencies(config_.rope_base, config_.rotary_dim, config_.rope_scaling),
                static_cast<float>(config_.rope_scaling.attention_factor), rope_);
  if (device.type == DeviceType::kCpu) {
    rope_buffer_ = std::move(host_rope);
  } else {
    ASSIGN_OR_RETURN(rope_buffer_, Buffer::Allocate(device, rope_bytes));
    rope_.cos_sin = rope_at(rope_buffer_, device);
    CopyNow(rope_at(host_rope, Device{}), rope_.cos_sin);
  }
  const int64_t max_blocks =
      (options_.max_model_len + options_.block_size - 1) / options_.block_size;
  ASSIGN_OR_RETURN(block_tables_,
                   BlockTables::Create(rank_.stream, options_.max_num_seqs, max_blocks));
  wanted_.Reserve(options_.max_num_batched_tokens);
  if (rank_.topology.last_stage()) {
    ASSIGN_OR_RETURN(output_head_, OutputHead::Create(rank_, config_, weights_, pool_.all,
                                                      options_.max_num_batched_tokens));
  }
  if (device.type == DeviceType::kCuda && options_.graphs) {
    ASSIGN_OR_RETURN(graphs_, DecodeGraphs::Create(rank_.stream, options_.max_num_batched_tokens,
                                                   max_blocks, options_.block_size));
  }
  return absl::OkStatus();
}

TransformerContext PipelineStage::Context() const {
  return {rank_.stream, *rank_.groups.tp, config_, weights_, kv_cache_, rope_};
}

std::optional<StepResult> PipelineStage::Run(const StepPlan& plan) {
  CHECK_EQ(num_pending(), 0);
  Launch(plan);
  return Finish();
}

void PipelineStage::Launch(const StepPlan& plan) {
  CHECK_LT(num_pending(), OutputHead::kMaxPending);
  Pending& pending = pending_[launched_ % OutputHead::kMaxPending];
  pending = {plan.step_id, static_cast<int32_t>(plan.num_seqs()),
             static_cast<int32_t>(plan.num_tokens()), /*begin_ns=*/0};
  if (num_pending() == 0) BeginActivity(pending);
  const bool first = rank_.topology.first_stage();
  if (!first) Receive(pool_.all.ForStep(plan.num_tokens()));
  pending.begin_ns = Timeline::NowNs();  // waiting for the stage before is not work
  block_tables_.Take(rank_.stream, plan);
  if (graphs_ != nullptr && graphs_->Holds(plan)) {
    LaunchDecode(plan);
  } else {
    LaunchStep(plan);
  }
  if (!rank_.topology.last_stage()) Send(pool_.all.ForStep(plan.num_tokens()));
  done_[launched_ % OutputHead::kMaxPending]->Record(rank_.stream);
  ++launched_;
}

bool PipelineStage::CanFinish() const {
  CHECK_GT(num_pending(), 0);
  return done_[finished_ % OutputHead::kMaxPending]->Passed();
}

std::optional<StepResult> PipelineStage::Finish() {
  while (!CanFinish()) std::this_thread::yield();
  const Pending& pending = pending_[finished_ % OutputHead::kMaxPending];
  timeline_.Add({pending.step_id, pending.num_tokens, pending.begin_ns, Timeline::NowNs()});
  rank_.groups.activity->EndStep();
  ++finished_;
  if (num_pending() > 0) {
    Pending& next = pending_[finished_ % OutputHead::kMaxPending];
    next.begin_ns = Timeline::NowNs();  // it has waited for this one
    BeginActivity(next);
  }
  if (!rank_.sampler()) return std::nullopt;
  return output_head_->Take();
}

void PipelineStage::BeginActivity(const Pending& pending) {
  rank_.groups.activity->BeginStep(pending.step_id, pending.num_seqs, pending.num_tokens);
}

// One operator after the other.
void PipelineStage::LaunchStep(const StepPlan& plan) {
  // Before the uploads, as it has to be.
  const Tensor tables = block_tables_.Gather(rank_.stream, plan, plan.num_seqs(), plan.max_blocks);
  const StepInputs inputs = UploadInputs(rank_.stream, plan, tables);
  const Activations a = pool_.all.ForStep(plan.num_tokens());
  if (rank_.topology.first_stage()) Embed(inputs, a);
  if (rank_.topology.last_stage()) {
    RunLastStage(plan, inputs, a);
  } else {
    RunLayers(inputs, a);
  }
}

// From the graph of the plan's shape. All that is received or sent lies outside.
void PipelineStage::LaunchDecode(const StepPlan& plan) {
  const Topology& topology = rank_.topology;
  const auto [num_rows, max_blocks] = PadDecodeShape(plan.num_seqs(), plan.max_blocks);
  const bool logits = topology.last_stage() && num_rows <= pool_.all.max_logit_rows();
  const auto work = [&, n = num_rows](const StepInputs& inputs, const Tensor& rows) {
    const Activations a = pool_.all.ForStep(n);
    if (topology.first_stage()) Embed(inputs, a);
    RunLayers(inputs, a);
    if (logits) output_head_->ComputeLogits(a.hidden, rows);
  };
  const Tensor tables = block_tables_.Gather(rank_.stream, plan, num_rows, max_blocks);
  graphs_->Run(rank_.stream, plan, tables, work);
  if (logits) return output_head_->SampleFromLogits(plan);
  if (!topology.last_stage()) return;
  wanted_.all = true;
  output_head_->Run(plan, wanted_, pool_.all.ForStep(num_rows).hidden);
}

void PipelineStage::Receive(const Activations& a) {
  rank_.groups.pp->Recv(rank_.stream, a.hidden, rank_.topology.pp_rank() - 1);
}

void PipelineStage::Send(const Activations& a) {
  rank_.groups.pp->Send(rank_.stream, a.hidden, rank_.topology.pp_rank() + 1);
}

void PipelineStage::Embed(const StepInputs& inputs, const Activations& a) {
  // Plans name tokens that are drawn here only where this stage is the last, too.
  const Tensor drawn = output_head_ == nullptr ? Tensor() : output_head_->drawn();
  EmbeddingLookup(rank_.stream, inputs.token_ids, weights_.embedding,
                  static_cast<int32_t>(weights_.vocab.begin), a.hidden, drawn);
  rank_.groups.tp->AllReduceSum(rank_.stream, a.hidden);
}

void PipelineStage::RunLayers(const StepInputs& inputs, const Activations& a) {
  DecoderLayers(Context(), weights_.layers, inputs, a);
}

void PipelineStage::RunLastStage(const StepPlan& plan, const StepInputs& inputs,
                                 const Activations& a) {
  if (options_.prefill_skip) wanted_.Find(plan);
  if (wanted_.all) {
    RunLayers(inputs, a);
    return output_head_->Run(plan, wanted_, a.hidden);
  }
  const TransformerContext context = Context();
  DecoderLayers(context, absl::MakeConstSpan(weights_.layers).first(last_owner_), inputs, a);
  WriteKeysAndValues(context, weights_.layers[last_owner_], inputs, a);
  const Activations wanted = pool_.all.ForGatheredRows(static_cast<int64_t>(wanted_.rows.size()));
  if (!wanted_.rows.empty()) RunWantedRows(inputs, a.hidden, wanted);
  output_head_->Run(plan, wanted_, wanted.hidden);
}

// The last owner from its query on and all above it, of rows of `hidden`.
void PipelineStage::RunWantedRows(const StepInputs& inputs, const Tensor& hidden,
                                  const Activations& wanted) {
  const Stream& stream = rank_.stream;
  const int64_t n = wanted.hidden.dim(0);
  const TransformerContext context = Context();
  StepInputs rest;  // neither tokens nor slots: nothing is embedded or stored from here on
  rest.positions = Upload(stream, wanted_.positions, {n});
  rest.batch = inputs.batch;  // fewer queries, the same contexts
  rest.batch.cu_seqlens_q =
      Upload(stream, wanted_.cu_seqlens_q, {inputs.batch.cu_seqlens_q.dim(0)});
  rest.batch.max_seqlen_q = std::min(inputs.batch.max_seqlen_q, n);
  EmbeddingLookup(stream, Upload(stream, wanted_.rows, {n}), hidden, /*vocab_begin=*/0,
                  wanted.hidden);  // gathers rows
  DecoderLayerFromQuery(context, weights_.layers[last_owner_], rest, wanted);
  DecoderLayers(context, absl::MakeConstSpan(weights_.layers).subspan(last_owner_ + 1), rest,
                wanted);
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
