// What plans tell the sampler about a sequence's tokens, against a recount at every step.

#include "engine/token_history.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>

#include "engine/scheduler.h"

namespace polystrate {
namespace {

constexpr int32_t kVocab = 7;  // so that tokens repeat

std::map<int32_t, int32_t> AsMap(absl::Span<const TokenCount> counts) {
  std::map<int32_t, int32_t> map;
  for (const TokenCount& token : counts) {
    EXPECT_TRUE(map.emplace(token.token_id, token.count).second) << token.token_id << " twice";
  }
  return map;
}

TEST(TokenHistory, CountsWhatWasGeneratedAndKnowsThePrompt) {
  TokenHistory history;
  for (const int32_t token : {5, 3, 5}) history.AddPrompt(token);
  for (const int32_t token : {3, 9, 3}) history.Add(token);
  EXPECT_EQ(AsMap(history.counts()), (std::map<int32_t, int32_t>{{5, 0}, {3, 2}, {9, 1}}));
}

std::map<int32_t, int32_t> Recount(const Sequence& sequence) {
  std::map<int32_t, int32_t> counts;
  const bool repetition = sequence.sampling.repetition_penalty != 1.0f;
  for (int64_t i = 0; i < static_cast<int64_t>(sequence.tokens.size()); ++i) {
    if (i >= sequence.prompt_len) {
      ++counts[sequence.tokens[i]];
    } else if (repetition) {
      counts.try_emplace(sequence.tokens[i], 0);
    }
  }
  return counts;
}

// Sequence 1 has no penalty, 2 a repetition penalty, 3 one of the others, 4 biases at its start.
std::unique_ptr<Sequence> MakeSequence(uint64_t id, std::mt19937_64& random) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  for (int i = 0; i < 6; ++i) sequence->tokens.push_back(static_cast<int32_t>(random() % kVocab));
  sequence->prompt_len = 6;
  if (id == 2) sequence->sampling.repetition_penalty = 1.1f;
  if (id == 3) sequence->sampling.frequency_penalty = -0.5f;
  if (id == 4) {
    sequence->biases = {{2, -std::numeric_limits<float>::infinity()}, {6, 1.5f}};
    sequence->biases_end = sequence->prompt_len + 4;
  }
  return sequence;
}

void CheckLists(const StepPlan& plan, const Scheduler& scheduler) {
  size_t history_end = 0;
  size_t biases_end = 0;
  for (const SamplePoint& point : plan.samples) {
    const SampleRow& row = point.params;
    const Sequence& sequence = *scheduler.Find(point.sequence_id);
    ASSERT_EQ(row.history_begin, static_cast<int32_t>(history_end));
    ASSERT_EQ(row.biases_begin, static_cast<int32_t>(biases_end));
    history_end = row.history_end;
    biases_end = row.biases_end;
    const auto counts = AsMap(absl::MakeSpan(plan.history)
                                  .subspan(row.history_begin, row.history_end - row.history_begin));
    const bool penalised = sequence.id == 2 || sequence.id == 3;
    EXPECT_EQ(counts, penalised ? Recount(sequence) : (std::map<int32_t, int32_t>{}));
    const bool biased = sequence.id == 4 && sequence.tokens.size() < 10;
    EXPECT_EQ(row.biases_end - row.biases_begin, biased ? 2 : 0);
  }
  EXPECT_EQ(history_end, plan.history.size());
  EXPECT_EQ(biases_end, plan.biases.size());
}

// So few blocks that sequences are preempted and computed again, so small steps that the way back
// takes several.
TEST(TokenHistory, PlansCarryItThroughPreemption) {
  std::mt19937_64 random(5);
  for (const int pp_size : {1, 3}) {
    Scheduler scheduler(
        {.num_blocks = 12, .block_size = 4, .max_num_batched_tokens = 9, .pp_size = pp_size});
    for (uint64_t id = 1; id <= 4; ++id) scheduler.Add(MakeSequence(id, random));
    std::vector<StepPlan> in_flight;
    int drawn = 0;
    for (int step = 0; step < 400 && !scheduler.idle(); ++step) {
      while (in_flight.size() < static_cast<size_t>(pp_size)) {
        const auto plan = scheduler.Schedule();
        if (!plan.has_value()) break;
        CheckLists(*plan, scheduler);
        in_flight.push_back(StepPlan::FromBytes(plan->ToBytes()));
      }
      ASSERT_FALSE(in_flight.empty());
      for (const SamplePoint& point : in_flight.front().samples) {
        const auto position = static_cast<int64_t>(point.params.position);
        const auto token = static_cast<int32_t>(random() % kVocab);
        if (!scheduler.Append(point.sequence_id, position, token)) continue;
        ++drawn;
        if (position == 29) scheduler.Remove(point.sequence_id);
      }
      in_flight.erase(in_flight.begin());
    }
    EXPECT_TRUE(scheduler.idle());
    EXPECT_EQ(drawn, 4 * 24);
    EXPECT_GT(scheduler.num_preemptions(), 2);
  }
}

}  // namespace
}  // namespace polystrate
