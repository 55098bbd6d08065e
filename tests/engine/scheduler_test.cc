// The scheduler against a model of what a stage would do: a fake cache remembers which token of
// which sequence was written to each slot, so that a plan that reads what is not there, or what
// another sequence has overwritten, is caught at the step that does it.

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

// What a token is to the fake cache: the token ids of its sequence up to it decide its K and V.
using Slot = std::pair<int64_t, int32_t>;  // position, token id

class FakeStage {
 public:
  explicit FakeStage(const SchedulerOptions& options) : options_(options) {}

  // Runs a plan in order; the sampled token is a function of the sequence's last token and
  // position.
  StepResult Run(const StepPlan& plan) {
    EXPECT_LE(plan.num_tokens(), options_.max_num_batched_tokens);
    EXPECT_LE(plan.num_seqs(), options_.max_num_seqs);
    EXPECT_EQ(plan.cu_seqlens_q.back(), plan.num_tokens());
    for (int64_t t = 0; t < plan.num_tokens(); ++t) {
      slots_[plan.slot_mapping[t]] = {plan.positions[t], plan.token_ids[t]};
    }
    for (int64_t s = 0; s < plan.num_seqs(); ++s) CheckContext(plan, s);
    StepResult result;
    result.step_id = plan.step_id;
    for (const SamplePoint& point : plan.samples) {
      const int32_t last = plan.token_ids[point.row];
      result.samples.push_back(
          {point.sequence_id, static_cast<int64_t>(point.params.position), NextToken(last), 0.0f});
    }
    return result;
  }

  // The sampled token names its sequence, so that a mix-up shows.
  static int32_t NextToken(int32_t last) { return last + 1; }

 private:
  void CheckContext(const StepPlan& plan, int64_t s) {
    const int32_t last_row = plan.cu_seqlens_q[s + 1] - 1;
    const int32_t last_token = plan.token_ids[last_row];
    const int32_t context = plan.context_lens[s];
    ASSERT_EQ(plan.positions[last_row], context - 1);
    for (int32_t position = 0; position < context; ++position) {
      const int32_t block = plan.block_tables[s * plan.max_blocks + position / options_.block_size];
      const int64_t slot = block * options_.block_size + position % options_.block_size;
      // Tokens of a sequence are consecutive numbers, so what must lie there is known.
      const Slot expected{position, last_token - (context - 1 - position)};
      ASSERT_EQ(slots_[slot], expected) << "position " << position << " of " << context;
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
  scheduler.Add(MakeSequence(2, 100));
  ASSERT_TRUE(scheduler.Append(1, 3, 1003));
  for (int64_t i = 0; i < 5; ++i) {
    const auto plan = scheduler.Schedule();
    ASSERT_TRUE(plan.has_value());
    ASSERT_EQ(plan->num_seqs(), 2);
    EXPECT_EQ(plan->cu_seqlens_q, (std::vector<int32_t>{0, 1, 8}));  // the decode, then a chunk
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

TEST(Scheduler, PreemptsTheNewestAndComputesItAgain) {
  // Two sequences of 8 + n tokens in 6 blocks of 4: at 12 tokens each there is no room for both.
  SchedulerOptions options{.num_blocks = 6, .block_size = 4};
  Scheduler scheduler(options);
  FakeStage stage(options);
  scheduler.Add(MakeSequence(1, 8));
  scheduler.Add(MakeSequence(2, 8));
  for (int step = 0; step < 20 && scheduler.num_preemptions() == 0; ++step) {
    const auto plan = scheduler.Schedule();
    if (!plan.has_value()) break;
    for (const auto& s : stage.Run(*plan).samples) {
      scheduler.Append(s.sequence_id, s.position, s.token_id);
    }
    scheduler.CheckInvariants();
  }
  EXPECT_EQ(scheduler.num_preemptions(), 1);
  EXPECT_TRUE(scheduler.Find(2)->block_table.empty());
  EXPECT_FALSE(scheduler.Find(1)->block_table.empty());
  scheduler.Remove(1);
  const auto plan = scheduler.Schedule();
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->num_tokens(), static_cast<int64_t>(scheduler.Find(2)->tokens.size()));
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

// Random arrivals, lengths and cancellations, up to pp_size plans in flight, results one by one.
void RunLoad(const Load& load, uint64_t seed) {
  std::mt19937_64 random(seed);
  Scheduler scheduler(load.options);
  FakeStage stage(load.options);
  std::map<uint64_t, int64_t> target;  // live sequences and the length at which they end
  std::deque<StepResult> in_flight;
  uint64_t next_id = 1;
  int finished = 0;
  for (int step = 0; finished < load.num_sequences; ++step) {
    ASSERT_LT(step, 100000) << "no progress: " << target.size() << " live";
    if (next_id <= static_cast<uint64_t>(load.num_sequences) && random() % 3 == 0) {
      const int64_t capacity = load.options.num_blocks * load.options.block_size;
      const int64_t prompt = 1 + random() % std::min<int64_t>(40, capacity);
      const int64_t length = std::min<int64_t>(prompt + 1 + random() % 30, capacity + 1);
      ASSERT_TRUE(scheduler.Fits(length - 1));
      target[next_id] = length;
      scheduler.Add(MakeSequence(next_id++, prompt));
    }
    if (!target.empty() && std::uniform_real_distribution<>()(random) < load.cancel_rate) {
      auto victim = std::next(target.begin(), random() % target.size());
      scheduler.Remove(victim->first);
      target.erase(victim);
      ++finished;
    }
    while (in_flight.size() < static_cast<size_t>(load.options.pp_size)) {
      const auto plan = scheduler.Schedule();
      scheduler.CheckInvariants();
      if (!plan.has_value()) break;
      in_flight.push_back(stage.Run(*plan));
      if (::testing::Test::HasFatalFailure()) return;
    }
    if (in_flight.empty()) continue;
    for (const SampledToken& sample : in_flight.front().samples) {
      if (!scheduler.Append(sample.sequence_id, sample.position, sample.token_id)) continue;
      const Sequence* sequence = scheduler.Find(sample.sequence_id);
      if (static_cast<int64_t>(sequence->tokens.size()) < target.at(sample.sequence_id)) continue;
      scheduler.Remove(sample.sequence_id);
      target.erase(sample.sequence_id);
      ++finished;
    }
    in_flight.pop_front();
    scheduler.CheckInvariants();
  }
  EXPECT_EQ(scheduler.blocks().num_used(), 0);
}

class SchedulerLoad : public ::testing::TestWithParam<int> {};

TEST_P(SchedulerLoad, NeverReadsWhatIsNotThereAndAlwaysEnds) {
  const int pp_size = GetParam();
  std::mt19937_64 random(pp_size);
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
    RunLoad(load, seed);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, SchedulerLoad, ::testing::Values(1, 2, 3, 4),
                         [](const auto& test) { return "pp" + std::to_string(test.param); });

}  // namespace
}  // namespace polystrate
