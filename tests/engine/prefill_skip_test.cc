// That prefill skip skips, and reads nothing of what it skips. (That it changes nothing:
// tests/engine/parity_test.cc.)

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int32_t kBlockSize = 4;
constexpr int32_t kBlocksPerSequence = 4;
constexpr int64_t kMaxTokens = 40;
constexpr int kNumSequences = 3;

void FillWithNan(const Tensor& x) {
  if (x.empty() || x.dim(0) == 0) return;
  std::fill_n(x.data<float>(), x.num_elements(), std::numeric_limits<float>::quiet_NaN());
}

// A group that notes how many rows each sum has: one for the embedding, then one or two for each
// layer. Once a sum has fewer rows than the step, all activations behind those are filled with
// NaN: whoever reads one of them later spoils his logits.
class Witness : public Communicator {
 public:
  int rank() const override { return self_->rank(); }
  // A rank that is alone has no sums. The other adds nothing.
  int size() const override { return 2; }
  void AllReduceSum(const Stream&, const Tensor& x) override {
    if (!rows_.empty() && x.dim(0) < rows_.front()) Poison(x.dim(0));
    rows_.push_back(x.dim(0));
  }
  void Broadcast(const Stream& stream, const Tensor& x, int root) override {
    self_->Broadcast(stream, x, root);
  }
  void Gather(const Stream& stream, const Tensor& in, const Tensor& out, int root) override {
    self_->Gather(stream, in, out, root);
  }
  void Send(const Stream& stream, const Tensor& x, int destination) override {
    self_->Send(stream, x, destination);
  }
  void Recv(const Stream& stream, const Tensor& x, int source) override {
    self_->Recv(stream, x, source);
  }
  std::optional<int64_t> Probe(int source) override { return self_->Probe(source); }

  void Watch(const Activations* activations) { activations_ = activations; }
  std::vector<int64_t> TakeRows() { return std::exchange(rows_, {}); }

 private:
  void Poison(int64_t first_row) const {
    const Activations& a = *activations_;
    for (const Tensor* x :
         {&a.hidden, &a.normed, &a.attention, &a.gate_up, &a.intermediate, &a.block_out}) {
      if (x->empty()) continue;
      FillWithNan(x->Rows(first_row, x->dim(0) - first_row));
    }
    // These are laid out anew by each layer.
    for (const Tensor* x : {&a.qkv, &a.key_value_mlp}) FillWithNan(*x);
  }

  std::unique_ptr<Communicator> self_ = MakeSelfCommunicator();
  const Activations* activations_ = nullptr;
  std::vector<int64_t> rows_;
};

// One stage on one rank, with a witness.
class WatchedStage {
 public:
  WatchedStage(const std::string& model_dir, bool prefill_skip) {
    auto witness = std::make_unique<Witness>();
    witness_ = witness.get();
    groups_.tp = std::move(witness);
    const ModelConfig config = *ReadModelConfig(model_dir);
    const Stage whole = PlanStages(config.sharing, StageCostsOf(config), 1)->stages[0];
    StageWeights weights =
        *LoadStageWeights(model_dir, config, topology_, whole, DType::kFloat32, stream_.device());
    stage_ = *PipelineStage::Create(
        {topology_, stream_, groups_}, config, whole, std::move(weights),
        {DType::kFloat32, kNumSequences * kBlocksPerSequence, kBlockSize, kMaxTokens,
         config.max_position_embeddings, kNumSequences, prefill_skip});
    witness_->Watch(&stage_->activations());
    // The whole cache is compared, so that what no test has written must be the same, too.
    std::memset(stage_->kv_cache().pool().data(), 0, stage_->kv_cache().num_bytes());
  }

  StepResult Run(const StepPlan& plan) { return *stage_->Run(plan); }
  std::vector<int64_t> TakeRows() { return witness_->TakeRows(); }
  std::vector<float> Logits(int64_t rows) const {
    const Tensor logits = stage_->logits().Rows(0, rows);
    return {logits.data<float>(), logits.data<float>() + logits.num_elements()};
  }
  std::vector<float> Cache() const {
    const auto* values = static_cast<const float*>(stage_->kv_cache().pool().data());
    return {values, values + stage_->kv_cache().num_bytes() / int64_t{sizeof(float)}};
  }

 private:
  const Topology topology_{{1, 1}, 0};
  Stream stream_ = Stream::Cpu(1);
  ProcessGroups groups_ = MakeSelfGroups();
  Witness* witness_;
  std::unique_ptr<PipelineStage> stage_;
};

// Tokens [begin, end) of sequence `seq`.
void AddChunk(int32_t seq, int32_t begin, int32_t end, StepPlan* plan) {
  const std::vector<int32_t> tokens = RandomTokens(kBlocksPerSequence * kBlockSize, 96, seq);
  if (plan->cu_seqlens_q.empty()) plan->cu_seqlens_q = {0};
  plan->max_blocks = kBlocksPerSequence;
  plan->table_rows.push_back(seq);
  for (int32_t block = 0; block < kBlocksPerSequence; ++block) {
    plan->new_blocks.push_back({seq, block, seq * kBlocksPerSequence + block});
  }
  for (int32_t position = begin; position < end; ++position) {
    plan->token_ids.push_back(tokens[position]);
    plan->positions.push_back(position);
    plan->slot_mapping.push_back(seq * kBlocksPerSequence * kBlockSize + position);
  }
  plan->cu_seqlens_q.push_back(static_cast<int32_t>(plan->num_tokens()));
  plan->context_lens.push_back(end);
}
void SampleLast(StepPlan* plan) {
  plan->samples.push_back({0, static_cast<int32_t>(plan->num_tokens()) - 1, {.temperature = 0}});
}

// Two middle chunks; then the ends of both prompts, a scored prompt's last half between them.
std::vector<StepPlan> Plans() {
  std::vector<StepPlan> plans(2);
  AddChunk(0, 0, 9, &plans[0]);
  AddChunk(1, 0, 7, &plans[0]);
  AddChunk(0, 9, 15, &plans[1]);
  SampleLast(&plans[1]);
  AddChunk(2, 0, 8, &plans[1]);
  for (int32_t row : {11, 12}) plans[1].scores.push_back({2, row, {.target = 5}, row - 5});
  AddChunk(1, 7, 16, &plans[1]);
  SampleLast(&plans[1]);
  return plans;
}
constexpr int64_t kWantedRows = 1 + 3 + 1;  // of the second: row 13 follows a scored one

struct Case {
  const char* name;
  std::vector<int> kv_source;
  bool parallel_residual = true;
  bool key_value_mlp = false;
  const char* reuse_keys = "post_rope";
  const char* model_type = "gpt_neox";
};

class PrefillSkip : public ::testing::TestWithParam<Case> {
 protected:
  PrefillSkip() {
    TinyModelSpec spec;
    spec.num_layers = num_layers();
    spec.num_kv_heads = 2;
    spec.kv_source = GetParam().kv_source;
    spec.use_parallel_residual = GetParam().parallel_residual;
    spec.use_key_value_mlp = GetParam().key_value_mlp;
    spec.reuse_keys = GetParam().reuse_keys;
    spec.model_type = GetParam().model_type;
    spec.separate_kv_norm = !spec.neox();
    WriteTinyModel(dir_.path(), spec);
  }
  static int num_layers() { return static_cast<int>(GetParam().kv_source.size()); }
  // What the sums of one step look like: whole up to the last owner, then the wanted rows alone.
  static std::vector<int64_t> ExpectedRows(int64_t num_tokens, int64_t num_wanted) {
    const int sums = GetParam().parallel_residual ? 1 : 2;
    const int whole = KvSharing{GetParam().kv_source}.owners().back();
    std::vector<int64_t> rows(1 + sums * whole, num_tokens);
    if (num_wanted > 0) rows.insert(rows.end(), sums * (num_layers() - whole), num_wanted);
    return rows;
  }

  TempDir dir_;
};

TEST_P(PrefillSkip, RunsWantedRowsAloneAndReadsNoOther) {
  WatchedStage on(dir_.path(), /*prefill_skip=*/true), off(dir_.path(), /*prefill_skip=*/false);
  const std::vector<StepPlan> plans = Plans();
  const int64_t wanted[] = {0, kWantedRows};
  for (size_t step = 0; step < plans.size(); ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    const int64_t num_tokens = plans[step].num_tokens();
    const StepResult got = on.Run(plans[step]), expected = off.Run(plans[step]);
    EXPECT_EQ(on.TakeRows(), ExpectedRows(num_tokens, wanted[step]));
    EXPECT_EQ(off.TakeRows(), ExpectedRows(num_tokens, num_tokens));
    ASSERT_EQ(got.samples.size(), expected.samples.size());
    for (size_t i = 0; i < expected.samples.size(); ++i) {
      EXPECT_EQ(got.samples[i].token_id, expected.samples[i].token_id);
      EXPECT_NEAR(got.samples[i].logprob, expected.samples[i].logprob, 1e-4);
    }
    ASSERT_EQ(got.scores.size(), expected.scores.size());
    for (size_t i = 0; i < expected.scores.size(); ++i) {
      EXPECT_NEAR(got.scores[i].logprob, expected.scores[i].logprob, 1e-4);
    }
    // Every K and V is there, of every row and owner.
    const std::vector<float> cache = on.Cache(), expected_cache = off.Cache();
    for (size_t i = 0; i < cache.size(); ++i) ASSERT_NEAR(cache[i], expected_cache[i], 1e-5);
  }
  const std::vector<float> logits = on.Logits(2), expected_logits = off.Logits(2);
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected_logits[i], 1e-4);
}

// Nothing is gathered where everything is wanted: the same bits with and without.
TEST_P(PrefillSkip, LeavesDecodesAlone) {
  WatchedStage on(dir_.path(), /*prefill_skip=*/true), off(dir_.path(), /*prefill_skip=*/false);
  StepPlan plan;
  for (int32_t seq = 0; seq < kNumSequences; ++seq) {
    AddChunk(seq, 0, 1, &plan);
    SampleLast(&plan);
  }
  on.Run(plan);
  off.Run(plan);
  EXPECT_EQ(on.TakeRows(), ExpectedRows(3, 3));
  EXPECT_EQ(on.Logits(3), off.Logits(3));
  EXPECT_EQ(on.Cache(), off.Cache());
}

INSTANTIATE_TEST_SUITE_P(
    Maps, PrefillSkip,
    ::testing::Values(Case{"own", {0, 1, 2, 3}}, Case{"sequential", {0, 1, 1, 1}, false},
                      Case{"mlkv_1", {0, 0, 0, 0}}, Case{"mlkv_1_sequential", {0, 0, 0, 0}, false},
                      Case{"pre_rope", {0, 0, 2, 2}, true, false, "pre_rope"},
                      Case{"interleaved", {0, 1, 0, 1, 0}},
                      Case{"key_value_mlp", {0, 0, 2, 2}, true, true},
                      Case{"qwen3", {0, 0, 2, 2}, false, false, "post_rope", "qwen3"}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace polystrate
