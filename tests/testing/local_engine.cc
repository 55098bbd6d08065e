#include "tests/testing/local_engine.h"

#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "engine/worker.h"
#include "kernels/core/copy.h"
#include "parallel/control_channel.h"
#include "parallel/gpu_groups.h"

namespace polystrate {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) CheckFailed(__FILE__, __LINE__, std::string(value.status().message()));
  return *std::move(value);
}

void CheckOk(const absl::Status& status) {
  if (!status.ok()) CheckFailed(__FILE__, __LINE__, std::string(status.message()));
}

class Sink : public TokenSink {
 public:
  explicit Sink(LocalOutput* output) : output_(output) {}
  void OnPrompt(const std::vector<PromptScore>& scores) override {
    output_->prompt_scores = scores;
    for (const PromptScore& score : scores) output_->prompt_logprobs.push_back(score.logprob);
  }
  void OnToken(const TokenInfo& token) override {
    LocalOutput& output = Output(token.output_index);
    output.token_ids.push_back(token.token_id);
    output.logprobs.push_back(token.logprob);
    output.ranks.push_back(token.rank);
    output.candidates.emplace_back(token.candidates.begin(), token.candidates.end());
  }
  void OnFinished(const Finished& finished) override {
    Output(finished.output_index).reason = finished.reason;
    Output(finished.output_index).usage = finished.usage;
  }
  void OnError(const absl::Status& status) override { output_->status = status; }

 private:
  LocalOutput& Output(int32_t index) {
    if (index == 0) return *output_;
    if (output_->others.size() < static_cast<size_t>(index)) output_->others.resize(index);
    return output_->others[index - 1];
  }
  LocalOutput* output_;
};

struct ModelPlan {
  ModelConfig config;
  StagePlan stages;
  StageOptions stage;
  EngineOptions engine;
};

ModelPlan MakePlan(const std::string& model_dir, const LocalEngineOptions& options) {
  ModelPlan plan;
  plan.config = ValueOrDie(ReadModelConfig(model_dir, {options.reuse_keys}));
  const StageCosts costs = StageCostsOf(plan.config);
  plan.stages =
      ValueOrDie(options.stages.empty()
                     ? PlanStages(plan.config.sharing, costs, options.pp_size)
                     : StagesFromCuts(plan.config.sharing, costs, options.pp_size, options.stages));
  plan.stage = {options.dtype,
                options.num_blocks,
                options.block_size,
                options.max_num_batched_tokens,
                plan.config.max_position_embeddings,
                options.max_num_seqs,
                options.prefill_skip,
                options.graphs};
  plan.engine.parallel = {options.tp_size, options.pp_size};
  plan.engine.vocab_size = static_cast<int32_t>(plan.config.vocab_size);
  plan.engine.eos_token_ids = plan.config.eos_token_ids;
  plan.engine.max_model_len = plan.config.max_position_embeddings;
  plan.engine.block_size = options.block_size;
  plan.engine.num_blocks = options.num_blocks;
  plan.engine.max_num_seqs = options.max_num_seqs;
  plan.engine.max_num_batched_tokens = options.max_num_batched_tokens;
  plan.engine.prefix_cache = options.prefix_cache;
  plan.engine.async_scheduling = options.async_scheduling;
  plan.engine.async_anywhere = options.async_anywhere;
  plan.engine.max_queued_requests = options.max_queued_requests;
  plan.engine.max_queued_tokens = options.max_queued_tokens;
  return plan;
}

Stream MakeStream(DeviceType device, int num_threads) {
  return device == DeviceType::kCuda ? ValueOrDie(Stream::Cuda(0)) : Stream::Cpu(num_threads);
}

// NaN: what is read before it was written shows.
void Poison(const Buffer& pool, Device device) {
  const int64_t size = pool.num_bytes();
  std::vector<uint8_t> nan(static_cast<size_t>(size), 0xff);
  CopyNow(Tensor(nan.data(), DType::kUInt8, Device{}, {size}),
          Tensor(pool.data(), DType::kUInt8, device, {size}));
}

}  // namespace

struct LocalEngine::Plan {
  ModelPlan model;
  DeviceType device;
  int num_threads;
  bool nccl;
};

LocalEngine::LocalEngine(const std::string& model_dir, const LocalEngineOptions& options)
    : model_dir_(model_dir),
      plan_(new Plan{MakePlan(model_dir, options), options.device, options.num_threads,
                     options.nccl}),
      engine_(std::make_unique<Engine>(plan_->model.engine, /*tokenizer=*/nullptr)),
      timelines_(plan_->model.engine.parallel.world_size()) {}

LocalEngine::~LocalEngine() { Stop(); }

void LocalEngine::Start() {
  const ParallelConfig& parallel = plan_->model.engine.parallel;
  std::vector<ProcessGroups> groups = MakeThreadGroups(parallel);
  for (int rank = 0; rank < parallel.world_size(); ++rank) {
    ranks_.emplace_back(&LocalEngine::PlayRank, this, rank, std::move(groups[rank]));
  }
}

void LocalEngine::Stop() {
  engine_->BeginDrain(absl::InfiniteDuration());
  for (std::thread& rank : ranks_) rank.join();
  ranks_.clear();
}

// One rank from start to end; rank 0 drives the engine.
void LocalEngine::PlayRank(int rank, ProcessGroups groups) {
  const ModelPlan& plan = plan_->model;
  const Topology topology(plan.engine.parallel, rank);
  Stream stream = MakeStream(plan_->device, plan_->num_threads);
  ControlChannel control(topology, groups);
  if (plan_->nccl) CheckOk(UseNccl(control, absl::Seconds(20), &groups));
  const Stage& stage = plan.stages.stages[topology.pp_rank()];
  StageWeights weights = ValueOrDie(LoadStageWeights(model_dir_, plan.config, topology, stage,
                                                     plan.stage.dtype, stream.device()));
  const RankContext context{topology, stream, groups};
  auto pipeline_stage = ValueOrDie(
      PipelineStage::Create(context, plan.config, stage, std::move(weights), plan.stage));
  CheckOk(pipeline_stage->AgreeOnHandover());
  Poison(pipeline_stage->kv_cache().pool(), stream.device());
  pipeline_stage->timeline().Enable();
  if (rank == 0) {
    engine_->Run(control, *pipeline_stage);
  } else {
    RunWorker(control, *pipeline_stage);
  }
  timelines_[rank] = pipeline_stage->timeline().spans();
}

LocalRun RunLocalEngine(const std::string& model_dir, const LocalEngineOptions& options,
                        const std::vector<GenerationRequest>& requests) {
  LocalEngine local(model_dir, options);
  LocalRun run;
  run.outputs.resize(requests.size());
  std::vector<std::unique_ptr<Sink>> sinks;
  for (size_t i = 0; i < requests.size(); ++i) {
    sinks.push_back(std::make_unique<Sink>(&run.outputs[i]));
    CheckOk(local.engine().Submit(requests[i], sinks.back().get()));
  }
  local.Start();
  local.Stop();
  run.timelines = local.timelines();
  run.stats = local.engine().stats();
  return run;
}

namespace {

// Tokens [begin, end) of one sequence whose blocks are 0, 1, ..., and the logits of those from
// `first_scored` on.
StepPlan StepOf(const std::vector<int32_t>& tokens, int32_t begin, int32_t end,
                int32_t first_scored, int64_t num_blocks) {
  StepPlan step;
  step.token_ids.assign(tokens.begin() + begin, tokens.begin() + end);
  step.cu_seqlens_q = {0, end - begin};
  step.context_lens = {end};
  step.max_blocks = static_cast<int32_t>(num_blocks);
  step.table_rows = {0};
  for (int32_t block = 0; block < step.max_blocks; ++block) {
    step.new_blocks.push_back({/*row=*/0, block, block});
  }
  for (int32_t i = begin; i < end; ++i) {
    step.positions.push_back(i);
    step.slot_mapping.push_back(i);
  }
  const int32_t last = std::min<int32_t>(end, first_scored + Activations::kMaxLogitRows);
  for (int32_t i = first_scored; i < last; ++i) {
    step.scores.push_back({/*sequence_id=*/0, i - begin, ScoreRow{}, /*position=*/i + 1});
  }
  return step;
}

// One rank of Logits(); the sampler's fills `logits`.
void PlayLogitsRank(const std::string& model_dir, const std::vector<int32_t>& tokens,
                    const ModelPlan& plan, const LogitsOptions& options, int rank,
                    ProcessGroups& groups, std::vector<std::vector<float>>* logits) {
  const Topology topology(plan.engine.parallel, rank);
  Stream stream = MakeStream(options.device, 1);
  const Stage& stage = plan.stages.stages[topology.pp_rank()];
  StageWeights weights = ValueOrDie(
      LoadStageWeights(model_dir, plan.config, topology, stage, plan.stage.dtype, stream.device()));
  auto pipeline_stage = ValueOrDie(PipelineStage::Create({topology, stream, groups}, plan.config,
                                                         stage, std::move(weights), plan.stage));
  const auto n = static_cast<int32_t>(tokens.size());
  const int64_t chunk = options.chunk == 0 ? n : options.chunk;
  for (int32_t begin = 0; begin < n; begin += static_cast<int32_t>(chunk)) {
    const int32_t end = std::min<int32_t>(n, begin + static_cast<int32_t>(chunk));
    // The stage keeps the logits of one turn of kMaxLogitRows; the same step again gives the next
    // ones.
    for (int32_t first = begin; first < end; first += Activations::kMaxLogitRows) {
      const StepPlan step = StepOf(tokens, begin, end, first, plan.stage.num_blocks);
      pipeline_stage->Run(step);
      if (rank != topology.sampler_rank()) continue;
      for (size_t i = 0; i < step.scores.size(); ++i) {
        const Tensor row = pipeline_stage->logits().Rows(static_cast<int64_t>(i), 1);
        std::vector<float>& values = (*logits)[first + i];
        values.resize(static_cast<size_t>(row.dim(1)));
        CopyNow(row, Tensor(values.data(), DType::kFloat32, Device{}, {1, row.dim(1)}));
        values.resize(static_cast<size_t>(plan.config.vocab_size));
      }
    }
  }
}

}  // namespace

std::vector<std::vector<float>> Logits(const std::string& model_dir,
                                       const std::vector<int32_t>& tokens,
                                       const LogitsOptions& options) {
  const auto n = static_cast<int64_t>(tokens.size());
  LocalEngineOptions engine;
  engine.tp_size = options.parallel.tp_size;
  engine.pp_size = options.parallel.pp_size;
  engine.reuse_keys = options.reuse_keys;
  engine.dtype = options.dtype;
  engine.num_blocks = (n + engine.block_size - 1) / engine.block_size;
  engine.max_num_batched_tokens = std::max(n, engine.max_num_batched_tokens);
  const ModelPlan plan = MakePlan(model_dir, engine);
  std::vector<std::vector<float>> logits(n);
  std::vector<ProcessGroups> groups = MakeThreadGroups(options.parallel);
  std::vector<std::thread> ranks;
  ranks.reserve(groups.size());
  for (int rank = 0; rank < options.parallel.world_size(); ++rank) {
    ranks.emplace_back([&, rank] {
      PlayLogitsRank(model_dir, tokens, plan, options, rank, groups[rank], &logits);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  return logits;
}

std::vector<std::vector<float>> FullLogits(const std::string& model_dir,
                                           const std::vector<int32_t>& tokens,
                                           std::optional<ReuseKeys> reuse_keys, DType dtype) {
  return Logits(model_dir, tokens, {.reuse_keys = reuse_keys, .dtype = dtype});
}

std::vector<int32_t> RandomTokens(int64_t n, int64_t vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab_size);
  return tokens;
}

}  // namespace polystrate
