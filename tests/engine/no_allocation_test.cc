// A steady-state step takes no memory: what PipelineStage::Run needs was taken at start-up, or by
// the first steps (arenas, oneDNN's primitives). Counted below malloc, so that operator new, the
// arenas, OpenMP and oneDNN are all seen, on every thread. The communicator is that of one rank;
// what MPI takes for itself is not ours.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <limits>

#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "kernels/cpu/context.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

// The sanitizers bring a malloc of their own, which takes more than the program asks for.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POLYSTRATE_OTHER_MALLOC 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POLYSTRATE_OTHER_MALLOC 1
#endif
#endif

namespace {

struct Tally {
  std::atomic<bool> on{false};
  std::atomic<int64_t> count{0};
  std::atomic<size_t> largest{0};
};
Tally tally;  // constant-initialised: malloc runs before any constructor

}  // namespace

#ifndef POLYSTRATE_OTHER_MALLOC
namespace {

void Note(size_t size) {
  if (!tally.on.load(std::memory_order_relaxed)) return;
  ++tally.count;
  size_t largest = tally.largest;
  while (size > largest && !tally.largest.compare_exchange_weak(largest, size)) {
  }
}

}  // namespace

// glibc's own, which free() takes back; every allocating entry is replaced by one that counts.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) noexcept {
  Note(size);
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) noexcept {
  Note(count * size);
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) noexcept {
  Note(size);
  return __libc_realloc(old, size);
}
void* memalign(size_t alignment, size_t size) noexcept {
  Note(size);
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  Note(size);
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** out, size_t alignment, size_t size) noexcept {
  Note(size);
  *out = __libc_memalign(alignment, size);
  return *out == nullptr ? ENOMEM : 0;
}
}
#endif  // POLYSTRATE_OTHER_MALLOC

namespace polystrate {
namespace {

constexpr int32_t kBlocksPerSequence = 4;
constexpr int32_t kBlockSize = 16;
// Shared scratch, oneDNN's primitives and OpenMP's threads are there after the first; the rest is
// margin.
constexpr int32_t kWarmUp = 10;

// Pages this process has mapped: buffers come from mmap, not from malloc.
int64_t MappedPages() {
  std::ifstream file("/proc/self/statm");
  int64_t pages = 0;
  file >> pages;
  return pages;
}

// `num_seqs` sequences, each with `new_tokens` tokens after `cached` ones, all of them sampled.
StepPlan MakePlan(int32_t num_seqs, int32_t cached, int32_t new_tokens) {
  StepPlan plan;
  plan.cu_seqlens_q = {0};
  plan.max_blocks = kBlocksPerSequence;
  for (int32_t seq = 0; seq < num_seqs; ++seq) {
    plan.table_rows.push_back(seq);
    for (int32_t block = 0; block < kBlocksPerSequence; ++block) {
      plan.new_blocks.push_back({seq, block, seq * kBlocksPerSequence + block});
    }
    for (int32_t position = cached; position < cached + new_tokens; ++position) {
      plan.token_ids.push_back(1 + position);
      plan.positions.push_back(position);
      plan.slot_mapping.push_back(seq * kBlocksPerSequence * kBlockSize + position);
    }
    plan.cu_seqlens_q.push_back(static_cast<int32_t>(plan.token_ids.size()));
    plan.context_lens.push_back(cached + new_tokens);
    SamplePoint point;
    point.sequence_id = seq;
    point.row = static_cast<int32_t>(plan.token_ids.size()) - 1;
    point.params = {.temperature = 1.0f, .top_k = seq * 5, .top_p = 0.9f, .seed = 7};
    plan.samples.push_back(point);
  }
  return plan;
}

// The same rows with every list and every answer that a sample may have.
StepPlan WithLists(StepPlan plan) {
  for (SamplePoint& point : plan.samples) {
    SampleRow& row = point.params;
    row.min_p = 0.001f;
    row.repetition_penalty = 1.1f;
    row.frequency_penalty = 0.5f;
    row.num_candidates = kMaxCandidates;
    row.history_begin = static_cast<int32_t>(plan.history.size());
    for (int32_t token = 0; token < 200; ++token) plan.history.push_back({token, token % 3});
    row.history_end = static_cast<int32_t>(plan.history.size());
    row.biases_begin = static_cast<int32_t>(plan.biases.size());
    plan.biases.push_back({1, -std::numeric_limits<float>::infinity()});
    row.biases_end = static_cast<int32_t>(plan.biases.size());
  }
  return plan;
}

struct Case {
  DType dtype;
  ReuseKeys reuse_keys;
  int num_threads;
  std::string model_type = "gpt_neox";
};

class NoAllocation : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#ifdef POLYSTRATE_OTHER_MALLOC
    GTEST_SKIP() << "allocations are not counted under a sanitizer's malloc";
#endif
    TinyModelSpec spec;
    spec.vocab_size = 3000;
    spec.hidden_size = 192;
    spec.intermediate_size = 500;
    spec.num_kv_heads = 2;
    spec.num_kv_layers = 2;
    spec.model_type = GetParam().model_type;
    spec.separate_kv_norm = !spec.neox();
    WriteTinyModel(dir_.path(), spec);
    config_ = *ReadModelConfig(dir_.path(), {GetParam().reuse_keys});
    const StagePlan plan = *PlanStages(config_.sharing, StageCostsOf(config_), /*pp_size=*/1);
    StageWeights weights = *LoadStageWeights(dir_.path(), config_, topology_, plan.stages[0],
                                             GetParam().dtype, stream_.device());
    const StageOptions options{GetParam().dtype, 64, kBlockSize, 512,
                               config_.max_position_embeddings};
    stage_ = *PipelineStage::Create({topology_, stream_, groups_}, config_, plan.stages[0],
                                    std::move(weights), options);
    stage_->timeline().Enable();
    CpuContext& cpu = stream_.cpu();
    cpu.SetMinParallelWork(0);  // this model is too small for two threads otherwise
    // Which thread takes which task is chance, so each gets the largest scratch beforehand.
    for (int thread = 0; thread < cpu.num_threads(); ++thread)
      cpu.thread_arena(thread).Get(1 << 20);
  }

  // Runs the plans while counting.
  void Count(const std::vector<StepPlan>& plans) {
    const int64_t pages = MappedPages();
    tally.count = 0;
    tally.largest = 0;
    tally.on = true;
    for (const StepPlan& plan : plans) stage_->Run(plan);
    tally.on = false;
    EXPECT_EQ(MappedPages(), pages);
  }

  // The StepResult's list of samples is made anew, in one piece, because it goes to the engine.
  void CountSmallSteps(int32_t batch, int32_t new_tokens) {
    for (int32_t step = 0; step < kWarmUp; ++step) {
      stage_->Run(MakePlan(batch, 20 + step, new_tokens));
    }
    std::vector<StepPlan> plans;
    for (int32_t step = 0; step < 10; ++step) {
      plans.push_back(MakePlan(batch, 20 + kWarmUp + step, new_tokens));
    }
    Count(plans);
    EXPECT_EQ(tally.count, static_cast<int64_t>(plans.size()));
    EXPECT_LE(tally.largest, batch * sizeof(SampledToken));
  }

  TempDir dir_;
  ModelConfig config_;
  const Topology topology_{{1, 1}, 0};
  Stream stream_ = Stream::Cpu(GetParam().num_threads);
  ProcessGroups groups_ = MakeSelfGroups();
  std::unique_ptr<PipelineStage> stage_;
};

TEST_P(NoAllocation, InADecodeStepButTheResult) {
  for (const int32_t batch : {1, 7}) CountSmallSteps(batch, /*new_tokens=*/1);
}

// And its list of candidates.
TEST_P(NoAllocation, InADecodeStepWithPenaltiesButTheResult) {
  constexpr int32_t kBatch = 7;
  for (int32_t step = 0; step < kWarmUp; ++step) {
    stage_->Run(WithLists(MakePlan(kBatch, 20 + step, /*new_tokens=*/1)));
  }
  std::vector<StepPlan> plans;
  for (int32_t step = 0; step < 10; ++step) {
    plans.push_back(WithLists(MakePlan(kBatch, 20 + kWarmUp + step, /*new_tokens=*/1)));
  }
  Count(plans);
  EXPECT_EQ(tally.count, 2 * static_cast<int64_t>(plans.size()));
  EXPECT_LE(tally.largest,
            kBatch * std::max(sizeof(SampledToken), kMaxCandidates * sizeof(TokenLogProb)));
}

// So few rows that oneDNN is not called; the last of each sequence alone is wanted.
TEST_P(NoAllocation, InAStepThatSkipsButTheResult) {
  for (const int32_t batch : {1, 7}) CountSmallSteps(batch, /*new_tokens=*/3);
}

// With many rows oneDNN multiplies. Each of its calls makes a few small lists of its arguments; the
// bound is that nothing is of the size of activations (80 rows here, 30 KiB at least) or weights.
TEST_P(NoAllocation, OfAnySizeInAPrefillStep) {
  constexpr size_t kSmall = 4096;
  const StepPlan plan = MakePlan(2, 0, 40);
  for (int32_t step = 0; step < kWarmUp; ++step) stage_->Run(plan);
  Count({plan, plan, plan});
  EXPECT_LT(tally.largest, kSmall);
}

INSTANTIATE_TEST_SUITE_P(Stages, NoAllocation,
                         ::testing::Values(Case{DType::kFloat32, ReuseKeys::kPostRope, 1},
                                           Case{DType::kFloat32, ReuseKeys::kPreRope, 2},
                                           Case{DType::kBFloat16, ReuseKeys::kPostRope, 2},
                                           Case{DType::kBFloat16, ReuseKeys::kPreRope, 1},
                                           Case{DType::kBFloat16, ReuseKeys::kPostRope, 1,
                                                "qwen3"}),
                         [](const auto& test) {
                           return std::string(test.param.dtype == DType::kFloat32 ? "float32"
                                                                                  : "bfloat16") +
                                  "_threads" + std::to_string(test.param.num_threads) +
                                  (test.param.model_type == "gpt_neox" ? "" : "_qwen3");
                         });

}  // namespace
}  // namespace polystrate
