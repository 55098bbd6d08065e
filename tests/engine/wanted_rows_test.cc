#include "engine/wanted_rows.h"

#include <gtest/gtest.h>

#include <random>

namespace polystrate {
namespace {

using Rows = std::vector<int32_t>;

// Sequences of the given numbers of rows; the first row of sequence i has position 100 * i.
StepPlan MakePlan(const std::vector<int32_t>& num_rows) {
  StepPlan plan;
  plan.cu_seqlens_q = {0};
  for (size_t seq = 0; seq < num_rows.size(); ++seq) {
    const auto first = static_cast<int32_t>(100 * seq);
    for (int32_t i = 0; i < num_rows[seq]; ++i) {
      plan.token_ids.push_back(i);
      plan.positions.push_back(first + i);
    }
    plan.cu_seqlens_q.push_back(static_cast<int32_t>(plan.token_ids.size()));
    plan.context_lens.push_back(first + num_rows[seq]);
  }
  return plan;
}

void AddSample(int32_t row, StepPlan* plan) { plan->samples.push_back({0, row, {}}); }
void AddScore(int32_t row, StepPlan* plan) { plan->scores.push_back({0, row, {}, 0}); }

// A decode, a chunk of a prompt's middle, the end of a prompt.
TEST(WantedRows, OfAMixedStep) {
  StepPlan plan = MakePlan({1, 4, 3});
  AddSample(0, &plan);
  AddSample(7, &plan);
  WantedRows wanted;
  wanted.Find(plan);
  EXPECT_FALSE(wanted.all);
  EXPECT_EQ(wanted.rows, Rows({0, 7}));
  EXPECT_EQ(wanted.positions, Rows({0, 202}));
  EXPECT_EQ(wanted.cu_seqlens_q, Rows({0, 1, 1, 2}));
  EXPECT_EQ(wanted.Locate(0), 0);
  EXPECT_EQ(wanted.Locate(7), 1);
}

// Attention takes a sequence's queries to be its last tokens, so that nothing after a wanted row
// may be left out.
TEST(WantedRows, GoFromTheFirstToTheSequencesEnd) {
  StepPlan plan = MakePlan({5, 4});
  AddScore(3, &plan);
  AddScore(2, &plan);
  AddScore(6, &plan);
  WantedRows wanted;
  wanted.Find(plan);
  EXPECT_EQ(wanted.rows, Rows({2, 3, 4, 6, 7, 8}));
  EXPECT_EQ(wanted.positions, Rows({2, 3, 4, 101, 102, 103}));
  EXPECT_EQ(wanted.cu_seqlens_q, Rows({0, 3, 6}));
  EXPECT_EQ(wanted.Locate(6), 3);
}

TEST(WantedRows, AllOfADecodeAndOfAScoredPrompt) {
  StepPlan plan = MakePlan({1, 3, 1});
  for (int32_t row : {0, 4}) AddSample(row, &plan);
  for (int32_t row : {1, 2}) AddScore(row, &plan);  // its last token's target is not known yet
  WantedRows wanted;
  wanted.Find(plan);
  EXPECT_TRUE(wanted.all);
  EXPECT_EQ(wanted.Locate(4), 4);
}

TEST(WantedRows, NoneOfAMiddleChunk) {
  WantedRows wanted;
  wanted.Find(MakePlan({6}));
  EXPECT_FALSE(wanted.all);
  EXPECT_TRUE(wanted.rows.empty());
  EXPECT_EQ(wanted.cu_seqlens_q, Rows({0, 0}));
}

// The definition, row by row; and a later plan finds nothing of an earlier one, nor new memory.
TEST(WantedRows, OfRandomPlans) {
  std::mt19937 random(5);
  WantedRows wanted;
  wanted.Reserve(64);
  const int32_t* memory[] = {wanted.rows.data(), wanted.positions.data(),
                             wanted.cu_seqlens_q.data(), wanted.index.data()};
  for (int trial = 0; trial < 500; ++trial) {
    std::vector<int32_t> lengths(1 + random() % 8);
    for (int32_t& length : lengths) length = static_cast<int32_t>(1 + random() % 8);
    StepPlan plan = MakePlan(lengths);
    std::vector<bool> asked(plan.token_ids.size());
    for (int32_t row = 0; row < plan.num_tokens(); ++row) {
      const bool sampled = random() % 6 == 0, scored = random() % 6 == 0;
      if (sampled) AddSample(row, &plan);
      if (scored) AddScore(row, &plan);
      asked[row] = sampled || scored;
    }
    wanted.Find(plan);
    size_t found = 0;
    for (size_t seq = 0; seq < lengths.size(); ++seq) {
      bool goes_on = false;
      for (int32_t row = plan.cu_seqlens_q[seq]; row < plan.cu_seqlens_q[seq + 1]; ++row) {
        goes_on = goes_on || asked[row];
        if (!goes_on) continue;
        ASSERT_LT(found, wanted.rows.size());
        EXPECT_EQ(wanted.rows[found], row);
        EXPECT_EQ(wanted.positions[found], plan.positions[row]);
        EXPECT_EQ(wanted.Locate(row), static_cast<int32_t>(wanted.all ? row : found));
        ++found;
      }
      EXPECT_EQ(wanted.cu_seqlens_q[seq + 1], static_cast<int32_t>(found));
    }
    EXPECT_EQ(found, wanted.rows.size());
    EXPECT_EQ(wanted.all, found == asked.size());
  }
  EXPECT_EQ(memory[0], wanted.rows.data());
  EXPECT_EQ(memory[1], wanted.positions.data());
  EXPECT_EQ(memory[2], wanted.cu_seqlens_q.data());
  EXPECT_EQ(memory[3], wanted.index.data());
}

}  // namespace
}  // namespace polystrate
