// Which plans the scheduler makes, held against a model of a stage (tests/testing/fake_stage.h).

#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <utility>

#include "tests/testing/fake_stage.h"

namespace polystrate {
namespace {

TEST(Scheduler, CutsALongPromptIntoChunksAndSamplesOnceAtItsEnd) {
  SchedulerOptions options{.num_blocks = 16, .block_size = 4, .max_num_batched_tokens = 10};
  Scheduler scheduler(options);
  scheduler.Add(MakeSequence(1, 25));
  std::vector<int64_t> chunks;
  int samples = 0;
  while (auto plan = scheduler.Schedule()) {
    chunks.push_back(plan->num_tokens());
    samples += static_cast<int>(plan->samples.size());
    scheduler.CheckInvariants();
  }
  EXPECT_EQ(chunks, (std::vector<int64_t>{10, 10, 5}));
  EXPECT_EQ(samples, 1);
}

// A scored row is computed in full, so it must be asked for.
TEST(Scheduler, ScoresWhatIsAskedForAndNothingElse) {
  const auto scored = [](std::optional<int64_t> begin) {
    Scheduler scheduler({.num_blocks = 16, .block_size = 4, .max_num_batched_tokens = 10});
    std::unique_ptr<Sequence> sequence = MakeSequence(1, 25);
    if (begin.has_value()) sequence->score_begin = *begin;
    scheduler.Add(std::move(sequence));
    std::vector<int64_t> positions;
    while (auto plan = scheduler.Schedule()) {
      for (const ScorePoint& point : plan->scores) positions.push_back(point.position);
    }
    return positions;
  };
  EXPECT_EQ(scored(std::nullopt), (std::vector<int64_t>{}));
  EXPECT_EQ(scored(25), (std::vector<int64_t>{}));
  EXPECT_EQ(scored(22), (std::vector<int64_t>{22, 23, 24}));
  EXPECT_EQ(scored(0).size(), 24u);  // nothing is expected of the first
}

TEST(Scheduler, DecodesGoBeforePrompts) {
  SchedulerOptions options{.num_blocks = 64, .block_size = 4, .max_num_batched_tokens = 8};
  Scheduler scheduler(options);
  scheduler.Add(MakeSequence(1, 3));
  auto first = scheduler.Schedule();
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(scheduler.num_decodes(), 0);
  EXPECT_EQ(scheduler.admitted(), std::vector<uint64_t>{1});
  EXPECT_EQ(scheduler.TakeAdmitted(), std::vector<uint64_t>{1});
  scheduler.Add(MakeSequence(2, 100));
  ASSERT_TRUE(scheduler.Append(1, 3, 1003));
  for (int64_t i = 0; i < 5; ++i) {
    const auto plan = scheduler.Schedule();
    ASSERT_TRUE(plan.has_value());
    ASSERT_EQ(plan->num_seqs(), 2);
    EXPECT_EQ(plan->cu_seqlens_q, (std::vector<int32_t>{0, 1, 8}));  // the decode, then a chunk
    EXPECT_EQ(scheduler.num_decodes(), 1);
    EXPECT_EQ(scheduler.TakeAdmitted(),
              i == 0 ? std::vector<uint64_t>{2} : std::vector<uint64_t>{});
    ASSERT_TRUE(scheduler.Append(1, 4 + i, static_cast<int32_t>(1004 + i)));
  }
}

TEST(Scheduler, SharesSequencesEvenlyOverThePipeline) {
  SchedulerOptions options{.num_blocks = 64,
                           .block_size = 4,
                           .max_num_seqs = 8,
                           .max_num_batched_tokens = 512,
                           .pp_size = 3};
  Scheduler scheduler(options);
  for (uint64_t id = 1; id <= 7; ++id) scheduler.Add(MakeSequence(id, 5));
  std::vector<int64_t> sequences;
  while (auto plan = scheduler.Schedule()) sequences.push_back(plan->num_seqs());
  EXPECT_EQ(sequences, (std::vector<int64_t>{3, 3, 1}));
}

struct PreemptionCase {
  const char* name;
  std::vector<int32_t> priorities;  // of sequences in their order of arrival
  uint64_t victim;
};
void PrintTo(const PreemptionCase& c, std::ostream* out) { *out << c.name; }

class Preemption : public ::testing::TestWithParam<PreemptionCase> {};

// Three sequences of 8 + n tokens in 9 blocks of 4: at 12 tokens each there is no room for all.
TEST_P(Preemption, TakesTheLeastUrgentAndComputesItAgain) {
  SchedulerOptions options{.num_blocks = 9, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  for (uint64_t id = 1; id <= 3; ++id) {
    auto sequence = MakeSequence(id, 8);
    sequence->priority = GetParam().priorities[id - 1];
    sequence->cache_root.private_id = id;  // so that nothing is found again
    scheduler.Add(std::move(sequence));
  }
  for (int step = 0; step < 20 && scheduler.num_preemptions() == 0; ++step) {
    ASSERT_TRUE(RunStep(&scheduler, &stage));
  }
  EXPECT_EQ(scheduler.num_preemptions(), 1);
  for (uint64_t id = 1; id <= 3; ++id) {
    EXPECT_EQ(scheduler.Find(id)->block_table.empty(), id == GetParam().victim) << id;
  }
  for (uint64_t id = 1; id <= 3; ++id) {
    if (id != GetParam().victim) scheduler.Remove(id);
  }
  const auto plan = scheduler.Schedule();
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->num_tokens(),
            static_cast<int64_t>(scheduler.Find(GetParam().victim)->tokens.size()));
}

INSTANTIATE_TEST_SUITE_P(Priorities, Preemption,
                         ::testing::Values(PreemptionCase{"equal", {0, 0, 0}, 3},
                                           PreemptionCase{"first_is_least", {-1, 0, 7}, 1},
                                           PreemptionCase{"newest_of_the_least", {2, 2, 5}, 2}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Scheduler, APreemptedSequenceFindsItsOwnBlocksAgain) {
  SchedulerOptions options{.num_blocks = 7, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  scheduler.Add(MakeSequence(1, 8));
  scheduler.Add(MakeSequence(2, 8));
  while (scheduler.num_preemptions() == 0) ASSERT_TRUE(RunStep(&scheduler, &stage));
  const auto known = static_cast<int64_t>(scheduler.Find(2)->tokens.size());
  ASSERT_EQ(known, 13);
  scheduler.Remove(1);
  const auto plan = scheduler.Schedule();
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->num_tokens(), known - 12);           // all three full blocks
  EXPECT_EQ(scheduler.Find(2)->num_cached_tokens, 0);  // tells of others' blocks, not of its own
  EXPECT_EQ(scheduler.num_prefix_hits(), 0);
}

TEST(Scheduler, AdmitsByPriorityThenByArrival) {
  Scheduler scheduler({.num_blocks = 100, .block_size = 4, .max_num_batched_tokens = 5});
  const std::vector<int32_t> priorities = {0, -3, 2, 0, 2, 2147483647, -2147483647 - 1};
  for (size_t i = 0; i < priorities.size(); ++i) {
    auto sequence = MakeSequence(i, 5);
    sequence->priority = priorities[i];
    sequence->sample = false;
    scheduler.Add(std::move(sequence));
  }
  std::vector<int32_t> order;  // by the tokens' names
  while (auto plan = scheduler.Schedule()) {
    for (size_t row = 0; row < plan->token_ids.size(); ++row) {
      if (plan->positions[row] == 0) order.push_back(plan->token_ids[row] / 1000);
    }
  }
  EXPECT_EQ(order, (std::vector<int32_t>{5, 2, 4, 0, 3, 1, 6}));
}

// What runs is not starved by what is more urgent and waits.
TEST(Scheduler, AnUrgentNewcomerTakesNothingFromWhatRuns) {
  SchedulerOptions options{.num_blocks = 4, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  scheduler.Add(MakeSequence(1, 12));
  ASSERT_TRUE(RunStep(&scheduler, &stage));
  auto urgent = MakeSequence(2, 12);
  urgent->priority = 9;
  scheduler.Add(std::move(urgent));
  ASSERT_TRUE(RunStep(&scheduler, &stage));
  EXPECT_EQ(scheduler.num_preemptions(), 0);
  EXPECT_EQ(scheduler.Find(1)->tokens.size(), 14u);
  EXPECT_EQ(scheduler.num_waiting(), 1);
}

// How many tokens of a second sequence, equal to the first but for `change`, have to be computed
// while or after the first is.
template <typename Change>
int64_t TokensComputed(int64_t length, bool first_is_gone, const Change& change) {
  SchedulerOptions options{.num_blocks = 32, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  scheduler.Add(MakeSequence(1, length));
  RunStep(&scheduler, &stage);
  if (first_is_gone) scheduler.Remove(1);
  auto second = MakeSequence(1, length);
  second->id = 2;
  change(second.get());
  scheduler.Add(std::move(second));
  const auto plan = scheduler.Schedule();
  stage.Run(*plan);
  scheduler.CheckInvariants();
  const int64_t cached = scheduler.Find(2)->num_cached_tokens;
  EXPECT_EQ(scheduler.num_prefix_hits(), cached);
  return plan->num_tokens() - (first_is_gone ? 0 : 1);
}

TEST(PrefixCache, FindsWholeBlocksAndComputesTheLastToken) {
  for (const bool first_is_gone : {false, true}) {
    const auto computed = [&](int64_t length, const auto& change) {
      return TokensComputed(length, first_is_gone, change);
    };
    EXPECT_EQ(computed(11, [](Sequence*) {}), 3);
    EXPECT_EQ(computed(12, [](Sequence*) {}), 4);  // or there were no logits to sample from
    EXPECT_EQ(computed(13, [](Sequence*) {}), 1);
    EXPECT_EQ(computed(3, [](Sequence*) {}), 3);
    EXPECT_EQ(computed(13, [](Sequence* s) { s->tokens.back() = 0; }), 1);
    EXPECT_EQ(computed(13, [](Sequence* s) { s->tokens[8] = 0; }), 5);
    EXPECT_EQ(computed(13, [](Sequence* s) { s->tokens[0] = 0; }), 13);
    EXPECT_EQ(computed(13, [](Sequence* s) { s->cache_root.salt = "x"; }), 13);
    EXPECT_EQ(computed(13, [](Sequence* s) { s->cache_root.private_id = 1; }), 13);
  }
}

// Every row from the one that tells of token score_begin on.
TEST(PrefixCache, ComputesAllThatIsScored) {
  const auto computed = [](int64_t score_begin, bool sample) {
    return TokensComputed(13, true, [=](Sequence* s) {
      s->score_begin = score_begin;
      s->sample = sample;
    });
  };
  EXPECT_EQ(computed(0, true), 13);
  EXPECT_EQ(computed(1, true), 13);
  EXPECT_EQ(computed(4, true), 13);
  EXPECT_EQ(computed(5, true), 9);
  EXPECT_EQ(computed(9, false), 4);  // the last token is not computed then
  EXPECT_EQ(computed(12, false), 4);
}

// All of one step: who comes first writes what the others read in it.
TEST(PrefixCache, SequencesOfOneStepShare) {
  SchedulerOptions options{.num_blocks = 32, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  for (uint64_t id = 1; id <= 4; ++id) {
    auto sequence = MakeSequence(1, 14);
    sequence->id = id;
    sequence->cache_root.private_id = 77;  // as the outputs of one request
    scheduler.Add(std::move(sequence));
  }
  const auto plan = scheduler.Schedule();
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->cu_seqlens_q, (std::vector<int32_t>{0, 14, 16, 18, 20}));
  EXPECT_EQ(stage.Run(*plan).samples.size(), 4u);
  scheduler.CheckInvariants();
  EXPECT_EQ(scheduler.blocks().num_used(), 3 + 4);
  for (uint64_t id = 1; id <= 4; ++id) scheduler.Remove(id);
  EXPECT_EQ(scheduler.blocks().num_free(), 32);  // a private root leaves nothing behind
  EXPECT_EQ(scheduler.num_prefix_queries(), 0);
}

TEST(PrefixCache, WhatIsNotToBeTrustedIsNotFound) {
  SchedulerOptions options{.num_blocks = 5, .block_size = 4};
  for (const bool preempted : {false, true}) {
    Scheduler scheduler(options);
    FakeStage stage(options);
    scheduler.Add(MakeSequence(1, 9));
    ASSERT_TRUE(RunStep(&scheduler, &stage));
    if (preempted) {
      auto urgent = MakeSequence(2, 5);
      urgent->priority = 1;
      scheduler.Add(std::move(urgent));
      while (scheduler.num_preemptions() == 0) ASSERT_TRUE(RunStep(&scheduler, &stage));
      scheduler.Remove(2);
    }
    const int64_t before = scheduler.blocks().num_cached();
    scheduler.Remove(1, /*keep_cache=*/false);
    EXPECT_EQ(scheduler.blocks().num_cached() > 0, preempted) << before;  // of the second
    scheduler.Add(MakeSequence(1, 9));
    const auto plan = scheduler.Schedule();
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(plan->num_tokens(), 9);
    scheduler.CheckInvariants();
  }
}

TEST(Scheduler, IgnoresWhatComesBackForSequencesThatAreGoneOrFurther) {
  Scheduler scheduler({.num_blocks = 8, .block_size = 4});
  scheduler.Add(MakeSequence(1, 3));
  ASSERT_TRUE(scheduler.Schedule().has_value());
  EXPECT_FALSE(scheduler.Append(2, 3, 0));
  EXPECT_FALSE(scheduler.Append(1, 4, 0));
  EXPECT_TRUE(scheduler.Append(1, 3, 1003));
  EXPECT_FALSE(scheduler.Append(1, 3, 1003));
  scheduler.Remove(1);
  EXPECT_FALSE(scheduler.Append(1, 4, 0));
  EXPECT_TRUE(scheduler.idle());
}

TEST(Lookahead, GoesOnFromWhatThePlanBeforeDraws) {
  Scheduler scheduler({.num_blocks = 16, .block_size = 4});
  scheduler.SetLookahead();
  for (uint64_t id = 1; id <= 2; ++id) {
    scheduler.Add(MakeSequence(id, 3));
    scheduler.Add(MakeSequence(id + 2, 5));
  }
  ASSERT_EQ(scheduler.Schedule()->samples.size(), 4u);
  scheduler.Remove(1);
  const auto plan = scheduler.Schedule();
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->token_ids, (std::vector<int32_t>{FedToken(1), FedToken(2), FedToken(3)}));
  EXPECT_EQ(plan->positions, (std::vector<int32_t>{5, 3, 5}));
  EXPECT_EQ(plan->samples[0].params.position, 6u);
  EXPECT_FALSE(scheduler.Schedule().has_value()) << "nobody knows two tokens ahead";
  ASSERT_TRUE(scheduler.Append(2, 3, 7));
  EXPECT_EQ(scheduler.Schedule()->token_ids, std::vector<int32_t>{FedToken(1)});
}

TEST(Lookahead, NotBeyondTheLargestLength) {
  Scheduler scheduler({.num_blocks = 16, .block_size = 4});
  scheduler.SetLookahead();
  scheduler.Add(MakeSequence(1, 3));
  scheduler.Add(MakeSequence(2, 3));
  auto short_one = MakeSequence(3, 3);
  short_one->max_len = 4;
  scheduler.Add(std::move(short_one));
  EXPECT_EQ(scheduler.Schedule()->samples.size(), 3u);
  EXPECT_EQ(scheduler.Schedule()->samples.size(), 2u);
}

// Who has to wait is in as many plans as the others.
TEST(Lookahead, NobodyGoesOnWhileOneWaitsForItsToken) {
  Scheduler scheduler({.num_blocks = 16, .block_size = 4});
  scheduler.SetLookahead();
  scheduler.Add(MakeSequence(1, 3));
  auto penalised = MakeSequence(2, 3);
  penalised->sampling.presence_penalty = 1.0f;
  scheduler.Add(std::move(penalised));
  for (int64_t step = 0; step < 5; ++step) {
    const auto plan = scheduler.Schedule();
    ASSERT_TRUE(plan.has_value());
    ASSERT_EQ(plan->samples.size(), 2u);
    EXPECT_FALSE(scheduler.Schedule().has_value());
    for (uint64_t id = 1; id <= 2; ++id) ASSERT_TRUE(scheduler.Append(id, 3 + step, 7));
  }
  scheduler.Remove(2);
  EXPECT_TRUE(scheduler.Schedule().has_value());
  EXPECT_TRUE(scheduler.Schedule().has_value());
}

TEST(Lookahead, ABlockHasItsNameWhenItsTokensAreKnown) {
  const auto hits_of_a_second = [](bool known) {
    Scheduler scheduler({.num_blocks = 16, .block_size = 4});
    scheduler.SetLookahead();
    scheduler.Add(MakeSequence(1, 3));
    EXPECT_TRUE(scheduler.Schedule().has_value());
    EXPECT_TRUE(scheduler.Schedule().has_value());  // fills the block
    if (known) {
      EXPECT_TRUE(scheduler.Append(1, 3, 1003));
    }
    auto second = MakeSequence(2, 5);
    for (int32_t i = 0; i < 5; ++i) second->tokens[i] = 1000 + i;
    scheduler.Add(std::move(second));
    EXPECT_TRUE(scheduler.Schedule().has_value());
    scheduler.CheckInvariants();
    return scheduler.num_prefix_hits();
  };
  EXPECT_EQ(hits_of_a_second(false), 0);
  EXPECT_EQ(hits_of_a_second(true), 4);
}

}  // namespace
}  // namespace polystrate
