#include "parallel/stage_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <tuple>

namespace polystrate {
namespace {

using Layers = std::vector<int>;

StageCosts UniformCosts(int num_layers) {
  StageCosts costs;
  costs.layer.assign(num_layers, 1);
  return costs;
}

Layers CutsOf(const StagePlan& plan) {
  Layers cuts = {0};
  for (const Stage& stage : plan.stages) {
    EXPECT_EQ(stage.first_layer, cuts.back());
    cuts.push_back(stage.end_layer);
  }
  return cuts;
}

// What the header promises, by trying every set of legal cuts.
Layers BruteForceCuts(const KvSharing& sharing, const StageCosts& costs, int pp_size) {
  const Layers legal = sharing.legal_cuts();
  std::vector<bool> chosen(legal.size(), false);
  std::fill(chosen.begin(), chosen.begin() + pp_size - 1, true);
  std::tuple<double, double, Layers> best = {1e300, 0, {}};
  do {  // every choice of pp_size - 1 of them
    Layers cuts = {0};
    for (size_t i = 0; i < legal.size(); ++i) {
      if (chosen[i]) cuts.push_back(legal[i]);
    }
    cuts.push_back(sharing.num_layers());
    double largest = 0, squares = 0;
    for (int s = 0; s < pp_size; ++s) {
      double cost = (s == 0 ? costs.first_stage : 0) + (s + 1 == pp_size ? costs.last_stage : 0);
      for (int l = cuts[s]; l < cuts[s + 1]; ++l) cost += costs.layer[l];
      largest = std::max(largest, cost);
      squares += cost * cost;
    }
    best = std::min(best, std::make_tuple(largest, squares, cuts));
  } while (std::prev_permutation(chosen.begin(), chosen.end()));
  return std::get<2>(best);
}

void ExpectMessage(const absl::StatusOr<StagePlan>& plan, const std::string& expected) {
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(plan.status().message()), expected);
}

TEST(PlanStagesTest, MatchesBruteForceOnRandomCases) {
  std::mt19937 random(1);
  for (int round = 0; round < 1000; ++round) {
    const int num_layers = 1 + static_cast<int>(random() % 12);
    Layers owners = {0};
    StageCosts costs;
    for (int l = 0; l < num_layers; ++l) {
      if (l > 0 && random() % 3 != 0) owners.push_back(l);
      // Few values, zero among them: many ties.
      costs.layer.push_back(static_cast<double>(random() % 4));
    }
    costs.first_stage = static_cast<double>(random() % 3);
    costs.last_stage = static_cast<double>(random() % 8);
    const KvSharing sharing = KvSharing::FromOwners(num_layers, owners).value();
    for (int pp_size = 1; pp_size <= static_cast<int>(owners.size()); ++pp_size) {
      const absl::StatusOr<StagePlan> plan = PlanStages(sharing, costs, pp_size);
      ASSERT_TRUE(plan.ok()) << plan.status();
      ASSERT_EQ(plan->pp_size(), pp_size);
      ASSERT_EQ(CutsOf(*plan), BruteForceCuts(sharing, costs, pp_size));
    }
  }
}

TEST(PlanStagesTest, EndsWeighOnTheirStages) {
  StageCosts costs = UniformCosts(12);
  EXPECT_EQ(CutsOf(PlanStages(KvSharing::AllOwn(12), costs, 2).value()), (Layers{0, 6, 12}));
  costs.last_stage = 4;
  const StagePlan plan = PlanStages(KvSharing::AllOwn(12), costs, 2).value();
  EXPECT_EQ(CutsOf(plan), (Layers{0, 8, 12}));
  EXPECT_EQ(plan.stages[0].cost, 8);
  EXPECT_EQ(plan.stages[1].cost, 8);
  costs.first_stage = 4;
  EXPECT_EQ(CutsOf(PlanStages(KvSharing::AllOwn(12), costs, 2).value()), (Layers{0, 6, 12}));
}

TEST(PlanStagesTest, CutsOnlyBetweenGroups) {
  const KvSharing sharing = KvSharing::Mlkv(12, 4).value();
  const StagePlan plan = PlanStages(sharing, UniformCosts(12), 3).value();
  // Of 0,6,9,12 and 0,3,9,12 and 0,3,6,12, all with 6 layers at most, the earliest cuts.
  EXPECT_EQ(CutsOf(plan), (Layers{0, 3, 6, 12}));
  EXPECT_EQ(plan.stages[0].owners, (Layers{0}));
  EXPECT_EQ(plan.stages[2].owners, (Layers{6, 9}));
}

// The smallest maximum does not fix the other stages: of all cuts with it, the most even wins.
TEST(PlanStagesTest, BalancesBelowTheLargestStage) {
  StageCosts costs;
  costs.layer = {5, 5, 5, 5, 100};
  EXPECT_EQ(CutsOf(PlanStages(KvSharing::AllOwn(5), costs, 3).value()), (Layers{0, 2, 4, 5}));
}

// Costs of a 100-layer model of 10^9 elements a layer: squares leave the exact integers.
TEST(PlanStagesTest, LargeEqualCostsStillTie) {
  StageCosts costs;
  costs.layer.assign(100, 1e9 + 7);
  EXPECT_EQ(CutsOf(PlanStages(KvSharing::AllOwn(100), costs, 8).value()),
            (Layers{0, 12, 24, 36, 48, 61, 74, 87, 100}));
}

TEST(PlanStagesTest, ZeroCostsAreAPlan) {
  StageCosts costs;
  costs.layer.assign(4, 0);
  EXPECT_EQ(CutsOf(PlanStages(KvSharing::AllOwn(4), costs, 2).value()), (Layers{0, 1, 4}));
}

TEST(PlanStagesTest, RefusesMoreStagesThanLegalCutsAllow) {
  const KvSharing two_groups = KvSharing::Mlkv(12, 2).value();
  EXPECT_TRUE(PlanStages(two_groups, UniformCosts(12), 2).ok());
  ExpectMessage(PlanStages(two_groups, UniformCosts(12), 4),
                "--pp 4 is not possible for this model: layers that share a KV cache must stay in "
                "one stage, and the only legal cut is 6; expected 1 to 2");
  ExpectMessage(PlanStages(KvSharing::Mlkv(12, 4).value(), UniformCosts(12), 5),
                "--pp 5 is not possible for this model: layers that share a KV cache must stay in "
                "one stage, and the legal cuts are 3,6,9; expected 1 to 4");
  ExpectMessage(PlanStages(KvSharing::Mlkv(12, 1).value(), UniformCosts(12), 2),
                "--pp 2 is not possible for this model: layers that share a KV cache must stay in "
                "one stage, and there is no legal cut; expected 1");
  EXPECT_FALSE(PlanStages(two_groups, UniformCosts(12), 0).ok());
  EXPECT_FALSE(PlanStages(two_groups, UniformCosts(12), -1).ok());
}

TEST(StagesFromCutsTest, TakesAnyLegalCut) {
  StageCosts costs = UniformCosts(12);
  costs.first_stage = 1;
  costs.last_stage = 5;
  const StagePlan plan =
      StagesFromCuts(KvSharing::Mlkv(12, 4).value(), costs, 2, {0, 9, 12}).value();
  EXPECT_EQ(CutsOf(plan), (Layers{0, 9, 12}));
  EXPECT_EQ(plan.stages[0].owners, (Layers{0, 3, 6}));
  EXPECT_EQ(plan.stages[0].cost, 10);
  EXPECT_EQ(plan.stages[1].cost, 8);
  EXPECT_TRUE(StagesFromCuts(KvSharing::Mlkv(12, 1).value(), costs, 1, {0, 12}).ok());
}

TEST(StagesFromCutsTest, RefusesACutThroughAGroup) {
  ExpectMessage(
      StagesFromCuts(KvSharing::Mlkv(12, 4).value(), UniformCosts(12), 2, {0, 5, 12}),
      "--stages 0,5,12 splits a KV group: layer 5 (stage 1) reads the KV cache of layer 3 (stage "
      "0); both must be in one stage, and the legal cuts are 3,6,9");
  // The reader need not be the first layer of its stage, nor in the next one.
  ExpectMessage(StagesFromCuts({{0, 1, 2, 3, 1}}, UniformCosts(5), 3, {0, 2, 4, 5}),
                "--stages 0,2,4,5 splits a KV group: layer 4 (stage 2) reads the KV cache of layer "
                "1 (stage 0); both must be in one stage, and the only legal cut is 1");
}

TEST(StagesFromCutsTest, RefusesListsThatAreNoCut) {
  const KvSharing sharing = KvSharing::AllOwn(12);
  for (const Layers& cuts : {Layers{},
                             {0},
                             {0, 0, 12},
                             {0, 6, 6, 12},
                             {1, 12},
                             {0, 6},
                             {0, 13},
                             {0, 9, 6, 12},
                             {0, -1, 12},
                             {12, 0}}) {
    const auto plan = StagesFromCuts(sharing, UniformCosts(12), 2, cuts);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(plan.status().message()).find("ascending from 0 to 12"),
              std::string::npos);
  }
  ExpectMessage(StagesFromCuts(sharing, UniformCosts(12), 3, {0, 6, 12}),
                "--stages 0,6,12 makes 2 stages, but --pp is 3; expected 4 numbers, or --pp 2");
}

}  // namespace
}  // namespace polystrate
