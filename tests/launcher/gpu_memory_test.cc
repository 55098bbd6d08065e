// What becomes of a GPU's memory where the KV cache gets what is left of it.

#include "launcher/gpu_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/weights.h"
#include "launcher/engine_setup.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGib = int64_t{1} << 30;

class GpuMemory : public ::testing::Test {
 protected:
  GpuMemory() {
    ModelFlags flags;
    flags.model = SourceFile("models/demo");
    flags.pp = 2;
    const auto setup = SetUpModel(flags, kDefaultBatchedTokens, kDefaultNumSeqs);
    EXPECT_TRUE(setup.ok()) << setup.status();
    model_ = *setup;
    use_.parallel = model_.parallel;
    use_.max_model_len = model_.max_model_len;
    use_.max_num_batched_tokens = kDefaultBatchedTokens;
    use_.max_num_seqs = kDefaultNumSeqs;
  }
  GpuMemoryParts Divide(int stage, int64_t total, int64_t used) const {
    const auto parts = DivideGpu(model_.config, model_.stage_plan, stage, use_, total, used);
    EXPECT_TRUE(parts.ok()) << parts.status();
    return *parts;
  }

  ModelSetup model_;
  GpuMemoryUse use_;
};

TEST_F(GpuMemory, AllOfTheShareIsAccountedFor) {
  const GpuMemoryParts parts = Divide(0, 80 * kGib, 3 * kGib);
  EXPECT_EQ(parts.share, 72 * kGib);
  EXPECT_EQ(parts.in_use, 3 * kGib);
  const Topology topology(model_.parallel, 0);
  EXPECT_EQ(parts.weights,
            *StageWeightBytes(model_.config, topology, model_.stage_plan.stages[0], use_.dtype));
  EXPECT_EQ(parts.kept, 768 * (kGib >> 10));
  EXPECT_EQ(parts.share,
            parts.in_use + parts.weights + parts.activations + parts.kept + parts.kv_cache());
  EXPECT_TRUE(CheckRoom(parts).ok());
}

TEST_F(GpuMemory, TheLastStageHoldsLogits) {
  EXPECT_GT(Divide(1, 80 * kGib, 0).activations,
            Divide(0, 80 * kGib, 0).activations + model_.config.vocab_size * 4 * 64);
}

TEST_F(GpuMemory, RanksThatShareAGpuTakeEqualParts) {
  use_.ranks_per_gpu = 2;
  const GpuMemoryParts parts = Divide(0, 80 * kGib, 4 * kGib);
  EXPECT_EQ(parts.share, 36 * kGib);
  EXPECT_EQ(parts.in_use, 2 * kGib);
}

TEST_F(GpuMemory, WhatIsTooLargeIsSaid) {
  GpuMemoryParts parts = {.utilization = 0.5, .total = 16 * kGib, .share = 8 * kGib};
  const auto error = [&parts] { return std::string(CheckRoom(parts).message()); };
  parts.weights = 9 * kGib;
  EXPECT_EQ(CheckRoom(parts).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(error(), HasSubstr("0.5 of 16.00 GiB, 8.00 for this rank: in use 0.00"));
  EXPECT_THAT(error(), HasSubstr("weights 9.00, "));
  EXPECT_THAT(error(), HasSubstr("use more ranks (--tp, --pp), or allow more (--gpu_memory_ut"));
  parts.weights = 0;
  parts.activations = 8 * kGib;
  EXPECT_THAT(error(), HasSubstr("ask for fewer --max_num_batched_tokens"));
  parts.activations = 0;
  parts.in_use = 8 * kGib;
  EXPECT_THAT(error(), HasSubstr("see what else runs there (nvidia-smi)"));
}

// Of 32 heads of 128 that share 8 KV heads, one part of a context is 130 floats of a head.
TEST_F(GpuMemory, ScratchHoldsThePartsOfEveryContext) {
  ModelConfig config = model_.config;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  use_.parallel = {1, 1};
  use_.max_model_len = 1 << 17;
  use_.max_num_seqs = 2048;
  EXPECT_GE(ScratchBytes(config, use_, /*num_sms=*/132), int64_t{2048} * 32 * 32 * 130 * 4);
  use_.max_num_seqs = 1;  // all pieces of 128 keys of a few contexts, as a block has them
  EXPECT_GE(ScratchBytes(config, use_, /*num_sms=*/132), int64_t{3} * 32 * (1 << 10) * 130 * 4);
}

}  // namespace
}  // namespace polystrate
