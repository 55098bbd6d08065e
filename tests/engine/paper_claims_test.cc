// What the MLKV and CLA papers claim, or leave open, of parallel execution, on the head structure
// of their own models: 12 layers, 12 heads, all nine (m, g). Sizes are small; claims C1 to C5 of
// docs/papers.md name these tests.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "engine/kv_cache.h"
#include "engine/memory_plan.h"
#include "engine/model_cost.h"
#include "engine/paper_variants.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/golden.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr ReuseKeys kRules[] = {ReuseKeys::kPostRope, ReuseKeys::kPreRope};
// Of the largest logit: float32 sums in another order.
constexpr double kFloat32Tolerance = 1e-4;

using LogitRows = std::vector<std::vector<float>>;

double Largest(const LogitRows& logits) {
  double largest = 0;
  for (const auto& row : logits) {
    for (float logit : row) largest = std::max<double>(largest, std::abs(logit));
  }
  return largest;
}

// The largest difference, as a share of the largest logit.
double Difference(const LogitRows& a, const LogitRows& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].size(), b[i].size());
    for (size_t j = 0; j < a[i].size(); ++j) {
      EXPECT_TRUE(std::isfinite(a[i][j]));
      difference = std::max<double>(difference, std::abs(a[i][j] - b[i][j]));
    }
  }
  return difference / Largest(b);
}

TinyModelSpec SpecOf(const KvSharing& sharing, int num_kv_heads) {
  TinyModelSpec spec;
  spec.num_layers = sharing.num_layers();
  spec.num_heads = 12;
  spec.hidden_size = 96;
  spec.num_kv_heads = num_kv_heads;
  spec.kv_source = sharing.kv_source;
  spec.rotary_pct = 0.5;
  spec.intermediate_size = 93;
  return spec;
}

class MlkvVariant : public ::testing::TestWithParam<PaperVariant> {
 protected:
  MlkvVariant() {
    const ModelConfig& config = GetParam().config;
    WriteTinyModel(dir_.path(), SpecOf(config.sharing, config.num_kv_heads));
  }
  const KvSharing& sharing() const { return GetParam().config.sharing; }
  int num_owners() const { return static_cast<int>(sharing().owners().size()); }

  TempDir dir_;
  const std::vector<int32_t> tokens_ = RandomTokens(21, 96, 7);
};

// C1: tensor parallelism changes nothing, whatever m and g.
TEST_P(MlkvVariant, TensorParallelLogits) {
  for (ReuseKeys rule : kRules) {
    const LogitRows one = Logits(dir_.path(), tokens_, {.reuse_keys = rule});
    for (int tp_size : {2, 3, 4}) {
      const LogitRows many =
          Logits(dir_.path(), tokens_, {.reuse_keys = rule, .parallel = {tp_size, 1}});
      EXPECT_LT(Difference(many, one), kFloat32Tolerance) << "tp " << tp_size;
    }
  }
}

// C2: as many stages as owners, no more; every stage's pool holds its owners' slots and nothing
// else, and the logits do not change by a bit.
TEST_P(MlkvVariant, PipelineStagesUpToTheOwners) {
  const ModelConfig& config = GetParam().config;
  const StageCosts costs = StageCostsOf(config);
  const LogitRows one = Logits(dir_.path(), tokens_, {});
  const KvCacheShape shape{4, 16, config.num_kv_heads, config.head_dim, DType::kBFloat16};
  for (int pp_size = 1; pp_size <= num_owners(); ++pp_size) {
    SCOPED_TRACE(testing::Message() << "pp " << pp_size);
    const auto plan = PlanStages(sharing(), costs, pp_size);
    ASSERT_TRUE(plan.ok()) << plan.status();
    int64_t total = 0;
    for (const Stage& stage : plan->stages) {
      EXPECT_TRUE(sharing().owns(stage.first_layer));
      const auto cache = KvCache::Create(shape, sharing(), stage, Device{});
      ASSERT_TRUE(cache.ok());
      EXPECT_EQ(cache->num_bytes(), static_cast<int64_t>(stage.owners.size()) * 64 * 2 *
                                        config.num_kv_heads * config.head_dim * 2);
      total += cache->num_bytes();
    }
    EXPECT_EQ(total, 64 * config.KvBytesPerToken(DType::kBFloat16));
    EXPECT_EQ(Logits(dir_.path(), tokens_, {.parallel = {1, pp_size}}), one);
  }
  EXPECT_TRUE(Fails(PlanStages(sharing(), costs, num_owners() + 1).status(),
                    absl::StatusCode::kInvalidArgument, "--pp"));
}

// C2: with one KV head a rank's cache shrinks with the stages and not with tp_size, whose ranks
// hold copies, so that together they hold tp_size times as much.
TEST_P(MlkvVariant, TheAxisThatShrinksTheCache) {
  const ModelConfig& config = GetParam().config;
  const auto bytes = [&config](int tp_size, int pp_size) {
    const StagePlan plan = PlanStages(config.sharing, StageCostsOf(config), pp_size).value();
    const MemoryPlan memory =
        PlanMemory(config, plan, {.tp_size = tp_size, .dtype = DType::kBFloat16}).value();
    int64_t most = 0;
    for (const StageMemory& stage : memory.stages) most = std::max(most, stage.kv_bytes_per_token);
    return most;
  };
  const int64_t whole = config.KvBytesPerToken(DType::kBFloat16);
  EXPECT_EQ(bytes(1, 1), whole);
  EXPECT_EQ(bytes(1, num_owners()), whole / num_owners());
  if (config.num_kv_heads == 1) {
    for (int tp_size : {2, 3, 4}) EXPECT_EQ(bytes(tp_size, 1), whole);
  }
  if (config.num_kv_heads == 12) {
    for (int tp_size : {2, 3, 4}) EXPECT_EQ(bytes(tp_size, 1), whole / tp_size);
  }
}

// C4: through the cache, in chunks of any size, on any cut, a model computes its full forward.
TEST_P(MlkvVariant, PrefillThenDecodeIsOneFullForward) {
  for (ReuseKeys rule : kRules) {
    const LogitRows full = Logits(dir_.path(), tokens_, {.reuse_keys = rule});
    for (int64_t chunk : {1, 4, 20}) {
      for (const ParallelConfig& parallel :
           {ParallelConfig{1, 1}, ParallelConfig{2, 1}, ParallelConfig{1, num_owners()}}) {
        const LogitRows chunked = Logits(
            dir_.path(), tokens_, {.reuse_keys = rule, .parallel = parallel, .chunk = chunk});
        EXPECT_LT(Difference(chunked, full), kFloat32Tolerance)
            << "chunk " << chunk << " tp " << parallel.tp_size << " pp " << parallel.pp_size;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Papers, MlkvVariant, ::testing::ValuesIn(MlkvVariants()),
                         [](const auto& test) {
                           std::string name = test.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// C5: any map, with the same guarantees: the CLA paper's, and MLKV where m does not divide l.
TEST(OwnerMaps, KeepTheirFullForwardOnEveryCut) {
  const struct {
    const char* name;
    KvSharing sharing;
  } maps[] = {{"keep_ends", KvSharing::KeepEnds(8).value()},
              {"dense_front", KvSharing::DenseFront(8).value()},
              {"dense_back", KvSharing::DenseBack(8).value()},
              {"cla2", KvSharing::Cla(8, 2).value()},
              {"cla3_remainder", KvSharing::Cla(8, 3).value()},
              {"cla4", KvSharing::Cla(8, 4).value()},
              {"mlkv_8_3", KvSharing::Mlkv(8, 3).value()},
              {"mlkv_10_4", KvSharing::Mlkv(10, 4).value()},
              {"interleaved", {{0, 1, 0, 1, 4, 4, 6, 4}}}};
  const std::vector<int32_t> tokens = RandomTokens(17, 96, 11);
  for (const auto& [name, sharing] : maps) {
    SCOPED_TRACE(name);
    TempDir dir;
    WriteTinyModel(dir.path(), SpecOf(sharing, 3));
    const int max_pp = static_cast<int>(sharing.legal_cuts().size()) + 1;
    for (ReuseKeys rule : kRules) {
      const LogitRows full = Logits(dir.path(), tokens, {.reuse_keys = rule});
      EXPECT_EQ(Logits(dir.path(), tokens, {.reuse_keys = rule, .parallel = {1, max_pp}}), full);
      for (const LogitsOptions& options :
           {LogitsOptions{.reuse_keys = rule, .parallel = {2, 1}},
            LogitsOptions{.reuse_keys = rule, .parallel = {4, max_pp}, .chunk = 3}}) {
        EXPECT_LT(Difference(Logits(dir.path(), tokens, options), full), kFloat32Tolerance);
      }
    }
  }
}

// The published MLKV code's cached decode is not its own full forward (tools/reference_decode.py).
// Here it is, under either key rule; and were it as theirs, the checks above would fail, by two
// orders of magnitude. A model that shares nothing has no such defect there either.
class ReferenceDecode : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceDecode, DiffersFromEveryFullForwardAndOursDoesNot) {
  const Golden theirs = ReadGolden(GetParam());
  TempDir dir;
  WriteGoldenModel(dir.path(), theirs);
  const bool shares = theirs.name != "gqa";
  for (ReuseKeys rule : kRules) {
    const LogitRows full = Logits(dir.path(), theirs.token_ids, {.reuse_keys = rule});
    const LogitRows decoded =
        Logits(dir.path(), theirs.token_ids, {.reuse_keys = rule, .chunk = 4});
    EXPECT_LT(Difference(decoded, full), kFloat32Tolerance);
    double defect = 0;
    for (size_t i = 0; i < theirs.positions.size(); ++i) {
      for (size_t j = 0; j < theirs.vocab_ids.size(); ++j) {
        const double ours = full[theirs.positions[i]][theirs.vocab_ids[j]];
        defect = std::max(defect, std::abs(theirs.logits[i][j] - ours) / theirs.logit_scale);
      }
    }
    if (shares) {
      EXPECT_GT(defect, 100 * kFloat32Tolerance);
    } else {
      EXPECT_LT(defect, kFloat32Tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ReferenceDecode, ::testing::ValuesIn(ReferenceDecodeFiles()),
                         [](const auto& test) {
                           return std::filesystem::path(test.param).stem().string();
                         });
TEST(ReferenceDecodeFiles, ThereAreSome) { EXPECT_EQ(ReferenceDecodeFiles().size(), 3u); }

}  // namespace
}  // namespace polystrate
