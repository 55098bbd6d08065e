// The scheduler against a model of what a stage would do: a fake cache remembers what was written
// to each slot, so that a plan that reads what is not there, or what another sequence has
// overwritten, is caught at the step that does it.

#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <utility>

#include "tests/testing/full_length.h"

namespace polystrate {
namespace {

std::unique_ptr<Sequence> MakeSequence(uint64_t id, int64_t prompt_len) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  for (int64_t i = 0; i < prompt_len; ++i) {
    sequence->tokens.push_back(static_cast<int32_t>(id * 1000 + i));
  }
  sequence->prompt_len = prompt_len;
  return sequence;
}

// The K and V of a token are decided by all tokens up to it; so is the fake cache's number.
using Kv = uint64_t;
constexpr Kv kStart = 1;
Kv NextKv(Kv before, int32_t token) {
  Kv kv = (before ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15;
  return kv ^ (kv >> 29);
}
// Few tokens, so that sequences meet again after they have parted.
int32_t SampleFrom(Kv kv) { return static_cast<int32_t>(kv % 2); }
int32_t SampleAfter(const std::vector<int32_t>& tokens) {
  Kv kv = kStart;
  for (int32_t token : tokens) kv = NextKv(kv, token);
  return SampleFrom(kv);
}

class FakeStage {
 public:
  explicit FakeStage(const SchedulerOptions& options) : options_(options) {}

  // Runs a plan as a layer does: all that it writes, then all that it reads.
  StepResult Run(const StepPlan& plan) {
    EXPECT_LE(plan.num_tokens(), options_.max_num_batched_tokens);
    EXPECT_LE(plan.num_seqs(), options_.max_num_seqs);
    EXPECT_EQ(plan.cu_seqlens_q.back(), plan.num_tokens());
    StepResult result;
    result.step_id = plan.step_id;
    for (int64_t s = 0; s < plan.num_seqs(); ++s) Write(plan, s);
    for (int64_t s = 0; s < plan.num_seqs(); ++s) CheckContext(plan, s);
    if (::testing::Test::HasFatalFailure()) return result;
    for (const SamplePoint& point : plan.samples) {
      const Kv kv = slots_.at(plan.slot_mapping[point.row]).kv;
      result.samples.push_back(
          {point.sequence_id, static_cast<int64_t>(point.params.position), SampleFrom(kv), 0.0f});
    }
    return result;
  }

 private:
  struct Slot {
    int32_t position = -1;
    int32_t token = 0;
    Kv before = 0;
    Kv kv = 0;
  };

  Slot& SlotOf(const StepPlan& plan, int64_t s, int32_t position) {
    const int32_t block = plan.block_tables[s * plan.max_blocks + position / options_.block_size];
    return slots_[block * options_.block_size + position % options_.block_size];
  }
  void Write(const StepPlan& plan, int64_t s) {
    for (int32_t row = plan.cu_seqlens_q[s]; row < plan.cu_seqlens_q[s + 1]; ++row) {
      const int32_t position = plan.positions[row], token = plan.token_ids[row];
      const Kv before = position == 0 ? kStart : SlotOf(plan, s, position - 1).kv;
      slots_[plan.slot_mapping[row]] = {position, token, before, NextKv(before, token)};
    }
  }
  // Every slot of the sequence must hold the token that follows the one in the slot before.
  void CheckContext(const StepPlan& plan, int64_t s) {
    const int32_t context = plan.context_lens[s];
    ASSERT_EQ(plan.positions[plan.cu_seqlens_q[s + 1] - 1], context - 1);
    Kv before = kStart;
    for (int32_t position = 0; position < context; ++position) {
      const Slot& slot = SlotOf(plan, s, position);
      ASSERT_EQ(slot.position, position) << "of " << context;
      ASSERT_EQ(slot.before, before) << "position " << position << " of " << context;
      before = slot.kv;
    }
  }

  const SchedulerOptions options_;
  std::map<int64_t, Slot> slots_;
};

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

// Runs one step to its end; false when there is none.
bool RunStep(Scheduler* scheduler, FakeStage* stage) {
  const auto plan = scheduler->Schedule();
  scheduler->CheckInvariants();
  if (!plan.has_value()) return false;
  for (const auto& s : stage->Run(*plan).samples) {
    scheduler->Append(s.sequence_id, s.position, s.token_id);
  }
  return true;
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

struct Load {
  SchedulerOptions options;
  int num_sequences = 0;
  double cancel_rate = 0;
};

// A prompt that often begins as another does.
std::unique_ptr<Sequence> RandomSequence(uint64_t id, int64_t prompt, std::mt19937_64* random) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  sequence->prompt_len = prompt;
  std::mt19937_64 shared((*random)() % 3);
  const int64_t common = (*random)() % (prompt + 1);
  for (int64_t i = 0; i < prompt; ++i) {
    sequence->tokens.push_back(static_cast<int32_t>((i < common ? shared() : (*random)()) % 2));
  }
  sequence->priority = static_cast<int32_t>((*random)() % 3);
  switch ((*random)() % 5) {
    case 0:
      sequence->cache_root.salt = "salt";
      break;
    case 1:
      sequence->cache_root.private_id = 1 + id / 2;
      break;
  }
  return sequence;
}

class RandomLoad {
 public:
  RandomLoad(const Load& load, uint64_t seed)
      : load_(load), random_(seed), scheduler_(load.options), stage_(load.options) {}

  // Random arrivals, lengths and cancellations, up to pp_size plans in flight, results one by one.
  void Run() {
    for (int step = 0; finished_ < load_.num_sequences; ++step) {
      ASSERT_LT(step, 100000) << "no progress: " << target_.size() << " live";
      Arrive();
      Cancel();
      while (in_flight_.size() < static_cast<size_t>(load_.options.pp_size)) {
        const auto plan = scheduler_.Schedule();
        scheduler_.CheckInvariants();
        if (!plan.has_value()) break;
        in_flight_.push_back(stage_.Run(*plan));
        if (::testing::Test::HasFatalFailure()) return;
      }
      if (in_flight_.empty()) continue;
      for (const SampledToken& sample : in_flight_.front().samples) Commit(sample);
      in_flight_.pop_front();
      scheduler_.CheckInvariants();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(scheduler_.blocks().num_used(), 0);
  }
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  void Arrive() {
    if (next_id_ > static_cast<uint64_t>(load_.num_sequences) || random_() % 3 != 0) return;
    const int64_t capacity = load_.options.num_blocks * load_.options.block_size;
    const int64_t prompt = 1 + random_() % std::min<int64_t>(40, capacity);
    const int64_t length = std::min<int64_t>(prompt + 1 + random_() % 30, capacity + 1);
    ASSERT_TRUE(scheduler_.Fits(length - 1));
    target_[next_id_] = length;
    scheduler_.Add(RandomSequence(next_id_, prompt, &random_));
    ++next_id_;
  }
  void Cancel() {
    if (target_.empty() || std::uniform_real_distribution<>()(random_) >= load_.cancel_rate) return;
    const auto victim = std::next(target_.begin(), random_() % target_.size());
    scheduler_.Remove(victim->first, /*keep_cache=*/random_() % 2 == 0);
    target_.erase(victim);
    ++finished_;
  }
  void Commit(const SampledToken& sample) {
    const Sequence* sequence = scheduler_.Find(sample.sequence_id);
    if (!scheduler_.Append(sample.sequence_id, sample.position, sample.token_id)) return;
    const std::vector<int32_t> before(sequence->tokens.begin(), sequence->tokens.end() - 1);
    ASSERT_EQ(sample.token_id, SampleAfter(before)) << "sequence " << sample.sequence_id;
    if (static_cast<int64_t>(sequence->tokens.size()) < target_.at(sample.sequence_id)) return;
    scheduler_.Remove(sample.sequence_id);
    target_.erase(sample.sequence_id);
    ++finished_;
  }

  const Load load_;
  std::mt19937_64 random_;
  Scheduler scheduler_;
  FakeStage stage_;
  std::map<uint64_t, int64_t> target_;  // live sequences and the length at which they end
  std::deque<StepResult> in_flight_;
  uint64_t next_id_ = 1;
  int finished_ = 0;
};

class SchedulerLoad : public ::testing::TestWithParam<int> {};

TEST_P(SchedulerLoad, EverySequenceReadsItsOwnTokensAndEnds) {
  const int pp_size = GetParam();
  std::mt19937_64 random(pp_size);
  int64_t num_hits = 0, num_preemptions = 0, num_evictions = 0;
  const uint64_t rounds = Length(60, 5000);
  for (uint64_t seed = 0; seed < rounds; ++seed) {
    Load load;
    load.options.block_size = 1 + random() % 8;
    load.options.num_blocks = 2 + random() % 40;  // often far too few
    load.options.max_num_seqs = 1 + random() % 12;
    load.options.max_num_batched_tokens = 1 + random() % 30;
    load.options.pp_size = pp_size;
    load.num_sequences = 25;
    load.cancel_rate = seed % 2 == 0 ? 0.0 : 0.03;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomLoad run(load, seed);
    run.Run();
    if (HasFatalFailure()) return;
    num_hits += run.scheduler().num_prefix_hits();
    num_preemptions += run.scheduler().num_preemptions();
    num_evictions += run.scheduler().blocks().num_evictions();
  }
  EXPECT_GT(num_hits, 1000);  // or not much was tested
  EXPECT_GT(num_preemptions, 100);
  EXPECT_GT(num_evictions, 1000);
}

INSTANTIATE_TEST_SUITE_P(Stages, SchedulerLoad, ::testing::Values(1, 2, 3, 4),
                         [](const auto& test) { return "pp" + std::to_string(test.param); });

}  // namespace
}  // namespace polystrate
