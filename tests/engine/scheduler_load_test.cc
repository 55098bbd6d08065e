// The scheduler under random loads, often with far too few blocks, against a model of a stage.

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

#include "engine/scheduler.h"
#include "tests/testing/fake_stage.h"
#include "tests/testing/full_length.h"

namespace polystrate {
namespace {

struct Load {
  SchedulerOptions options;
  int num_sequences = 0;
  double cancel_rate = 0;
  bool lookahead = false;
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
      : load_(load), random_(seed), scheduler_(load.options), stage_(load.options) {
    if (load.lookahead) scheduler_.SetLookahead();
  }

  // Random arrivals, lengths and cancellations, up to pp_size plans in flight, or one more, results
  // one by one.
  void Run() {
    for (int step = 0; finished_ < load_.num_sequences; ++step) {
      ASSERT_LT(step, 100000) << "no progress: " << target_.size() << " live";
      Arrive();
      Cancel();
      while (in_flight_.size() < load_.options.pp_size + (load_.lookahead ? 1u : 0u)) {
        const auto plan = scheduler_.Schedule();
        scheduler_.CheckInvariants();
        if (!plan.has_value()) break;
        num_fed_ += std::count_if(plan->token_ids.begin(), plan->token_ids.end(),
                                  [](int32_t id) { return id < 0; });
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
  int64_t num_fed() const { return num_fed_; }

 private:
  void Arrive() {
    if (next_id_ > static_cast<uint64_t>(load_.num_sequences) || random_() % 3 != 0) return;
    const int64_t capacity = load_.options.num_blocks * load_.options.block_size;
    const int64_t prompt = 1 + random_() % std::min<int64_t>(40, capacity);
    const int64_t length = std::min<int64_t>(prompt + 1 + random_() % 30, capacity + 1);
    ASSERT_TRUE(scheduler_.Fits(length - 1));
    target_[next_id_] = length;
    auto sequence = RandomSequence(next_id_, prompt, &random_);
    // Often it ends before it must, which nobody knows until it does.
    sequence->max_len = std::min<int64_t>(length + random_() % 3, capacity + 1);
    if (random_() % 8 == 0) sequence->sampling.presence_penalty = 1.0f;
    scheduler_.Add(std::move(sequence));
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
  int64_t num_fed_ = 0;
};

struct InFlight {
  int pp_size = 1;
  bool lookahead = false;
};

class SchedulerLoad : public ::testing::TestWithParam<InFlight> {};

TEST_P(SchedulerLoad, EverySequenceReadsItsOwnTokensAndEnds) {
  const int pp_size = GetParam().pp_size;
  std::mt19937_64 random(pp_size);
  int64_t num_hits = 0, num_preemptions = 0, num_evictions = 0, num_fed = 0;
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
    load.lookahead = GetParam().lookahead;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomLoad run(load, seed);
    run.Run();
    if (HasFatalFailure()) return;
    num_hits += run.scheduler().num_prefix_hits();
    num_preemptions += run.scheduler().num_preemptions();
    num_evictions += run.scheduler().blocks().num_evictions();
    num_fed += run.num_fed();
  }
  EXPECT_GT(num_hits, 1000);  // or not much was tested
  EXPECT_GT(num_preemptions, 100);
  EXPECT_GT(num_evictions, 1000);
  if (GetParam().lookahead) {
    EXPECT_GT(num_fed, 1000);
  } else {
    EXPECT_EQ(num_fed, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Stages, SchedulerLoad,
                         ::testing::Values(InFlight{1}, InFlight{2}, InFlight{3}, InFlight{4},
                                           InFlight{1, true}),
                         [](const auto& test) {
                           return "pp" + std::to_string(test.param.pp_size) +
                                  (test.param.lookahead ? "_lookahead" : "");
                         });

}  // namespace
}  // namespace polystrate
