#include "engine/decode_graphs.h"

#include <gtest/gtest.h>

#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

TEST(DecodeShapes, HoldTheStepAndAreFew) {
  std::vector<int64_t> shapes;
  for (int64_t n = 1; n <= DecodeGraphs::kMaxSeqs; ++n) {
    const int64_t padded = PadDecodeShape(n, 1).num_seqs;
    EXPECT_GE(padded, n);
    EXPECT_LE(padded - n, n < 32 ? n : n / 4);
    if (shapes.empty() || padded > shapes.back()) shapes.push_back(padded);
    EXPECT_EQ(padded, shapes.back());
  }
  EXPECT_LE(shapes.size(), 32u);
  EXPECT_EQ(PadDecodeShape(1, 1).max_blocks, 1);
  EXPECT_EQ(PadDecodeShape(1, 5).max_blocks, 8);
  EXPECT_EQ(PadDecodeShape(1, 8).max_blocks, 8);
}

constexpr int64_t kBlockSize = 4;

// One token of each of `num_seqs` sequences behind `context` others; sequence i has the blocks from
// 4 i on.
StepPlan DecodePlan(int32_t num_seqs, int32_t context) {
  StepPlan plan;
  plan.max_blocks = context / static_cast<int32_t>(kBlockSize) + 1;
  plan.cu_seqlens_q = {0};
  for (int32_t i = 0; i < num_seqs; ++i) {
    plan.token_ids.push_back((7 * i + 3 * context) % 96);
    plan.positions.push_back(context);
    plan.slot_mapping.push_back(4 * i * static_cast<int32_t>(kBlockSize) + context);
    plan.context_lens.push_back(context + 1);
    plan.cu_seqlens_q.push_back(i + 1);
    plan.table_rows.push_back(i);
    for (int32_t b = 0; b < plan.max_blocks; ++b) plan.new_blocks.push_back({i, b, 4 * i + b});
    SamplePoint point{static_cast<uint64_t>(i), i, {}};
    point.params.temperature = 0.0f;
    plan.samples.push_back(point);
  }
  return plan;
}

class RecordedSteps_cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
    TinyModelSpec spec;
    spec.vocab_size = 96;
    WriteTinyModel(dir_.path(), spec);
    config_ = *ReadModelConfig(dir_.path(), {});
    stream_ = std::make_unique<Stream>(*Stream::Cuda(0));
  }
  std::unique_ptr<PipelineStage> MakeStage(bool graphs) {
    const StagePlan plan = *PlanStages(config_.sharing, StageCostsOf(config_), /*pp_size=*/1);
    StageWeights weights = *LoadStageWeights(dir_.path(), config_, topology_, plan.stages[0],
                                             DType::kFloat32, stream_->device());
    StageOptions options;
    options.num_blocks = 64;
    options.block_size = kBlockSize;
    options.max_num_batched_tokens = 8;
    options.max_model_len = 16;
    options.graphs = graphs;
    return *PipelineStage::Create({topology_, *stream_, groups_}, config_, plan.stages[0],
                                  std::move(weights), options);
  }

  TempDir dir_;
  ModelConfig config_;
  const Topology topology_{{1, 1}, 0};
  std::unique_ptr<Stream> stream_;
  ProcessGroups groups_ = MakeSelfGroups();
};

// A batch that changes its size under way, so that what padding did would be seen later.
TEST_F(RecordedSteps_cuda, AreReplayedAndSayTheSame) {
  const auto recorded = MakeStage(/*graphs=*/true), plain = MakeStage(/*graphs=*/false);
  EXPECT_EQ(plain->graphs(), nullptr);
  const std::vector<int32_t> sizes = {3, 3, 2, 4, 3, 3, 5, 3};
  for (int32_t context = 0; context < static_cast<int32_t>(sizes.size()); ++context) {
    const StepPlan plan = DecodePlan(sizes[context], context);
    const StepResult got = *recorded->Run(plan), expected = *plain->Run(plan);
    ASSERT_EQ(got.samples.size(), expected.samples.size());
    for (size_t i = 0; i < got.samples.size(); ++i) {
      EXPECT_EQ(got.samples[i].token_id, expected.samples[i].token_id) << context;
      EXPECT_NEAR(got.samples[i].logprob, expected.samples[i].logprob, 1e-5) << context;
    }
  }
  // Shapes (4, 1): steps 0, 1, 3; (2, 1): 2; (4, 2): 4, 5, 7; (8, 2): 6.
  EXPECT_EQ(recorded->graphs()->num_replays(), 4);
}

TEST_F(RecordedSteps_cuda, TwoMayBeUnderWay) {
  const auto stage = MakeStage(/*graphs=*/true), plain = MakeStage(/*graphs=*/false);
  const std::vector<StepPlan> plans = {DecodePlan(2, 0), DecodePlan(2, 1), DecodePlan(2, 2),
                                       DecodePlan(2, 3)};
  std::vector<StepResult> results;
  stage->Launch(plans[0]);
  for (size_t i = 1; i < plans.size(); ++i) {
    stage->Launch(plans[i]);
    EXPECT_EQ(stage->num_pending(), 2);
    results.push_back(*stage->Finish());
  }
  results.push_back(*stage->Finish());
  for (size_t i = 0; i < plans.size(); ++i) {
    const StepResult expected = *plain->Run(plans[i]);
    ASSERT_EQ(results[i].samples.size(), 2u);
    for (size_t s = 0; s < 2; ++s) {
      EXPECT_EQ(results[i].samples[s].token_id, expected.samples[s].token_id);
    }
  }
}

}  // namespace
}  // namespace polystrate
