// What the engine says of its latencies against a clock outside of it, and counts against what came
// out of it.

#include "engine/engine_stats.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/timeline.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kMs = 1'000'000;  // nanoseconds

// What a client could measure; may dawdle over a token, which delays the next.
class TimingSink : public TokenSink {
 public:
  explicit TimingSink(absl::Duration dawdle = absl::ZeroDuration()) : dawdle_(dawdle) {}
  void OnPrompt(const std::vector<PromptScore>&) override {}
  void OnToken(const TokenInfo&) override {
    if (num_tokens++ == 0) first_token_ns = Timeline::NowNs();
    last_token_ns = Timeline::NowNs();
    absl::SleepFor(dawdle_);
  }
  void OnFinished(const Finished& finished) override {
    if (finished.usage.has_value()) End(finished.queue_time);
  }
  void OnError(const absl::Status&) override { End(absl::ZeroDuration()); }

  int64_t begin_ns = Timeline::NowNs();  // before Submit
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t end_ns = 0;
  int64_t num_tokens = 0;
  absl::Duration queue_time;
  absl::Notification ended;

 private:
  void End(absl::Duration queue) {
    queue_time = queue;
    end_ns = Timeline::NowNs();
    ended.Notify();
  }
  const absl::Duration dawdle_;
};

GenerationRequest Request(int64_t prompt, int64_t max_tokens, uint64_t seed = 1) {
  GenerationRequest request;
  request.prompt = RandomTokens(prompt, 96, seed);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0.0;
  request.ignore_eos = true;
  return request;
}

int64_t Ended(const EngineStats& stats, RequestEnd end) {
  return stats.requests[static_cast<size_t>(end)];
}

TEST(EngineStats, AddsUpOneRequestByHand) {
  EngineStats stats;
  RequestTimes times;
  times.arrival = 1000 * kMs;
  times.last_token_of.resize(2);
  stats.CountScheduled(1250 * kMs, &times);
  stats.CountScheduled(9999 * kMs, &times);  // the other output, or after a preemption
  stats.CountToken(1500 * kMs, 0, 7, &times);
  stats.CountToken(1550 * kMs, 0, 7, &times);
  stats.CountToken(1600 * kMs, 1, 7, &times);  // its first: no gap
  stats.CountToken(1700 * kMs, 1, 7, &times);
  stats.CountEnd(1750 * kMs, RequestEnd::kStop, {.prompt_tokens = 7, .completion_tokens = 4},
                 times);
  EXPECT_EQ(times.QueueTime(), absl::Milliseconds(250));
  const auto expect = [](const Histogram& histogram, int64_t count, double sum) {
    EXPECT_EQ(histogram.count(), count);
    EXPECT_NEAR(histogram.sum(), sum, 1e-9);
  };
  expect(stats.queue_time, 1, 0.25);
  expect(stats.time_to_first_token, 1, 0.5);
  expect(stats.inter_token_latency, 2, 0.15);
  expect(stats.time_per_output_token, 1, 0.075);
  expect(stats.prefill_time, 1, 0.25);
  expect(stats.decode_time, 1, 0.2);
  expect(stats.inference_time, 1, 0.45);
  expect(stats.e2e_time, 1, 0.75);
  expect(stats.prompt_length, 1, 7);
  expect(stats.output_length, 1, 4);
  EXPECT_EQ(stats.prompt_tokens, 7);
  EXPECT_EQ(stats.generation_tokens, 4);
  EXPECT_EQ(Ended(stats, RequestEnd::kStop), 1);
}

TEST(EngineStats, AnAbortedRequestHasNoLatenciesOfAWholeOne) {
  EngineStats stats;
  RequestTimes times;
  times.last_token_of.resize(1);
  stats.CountScheduled(5 * kMs, &times);
  stats.CountToken(6 * kMs, 0, 3, &times);
  stats.CountEnd(7 * kMs, RequestEnd::kAbort, {}, times);
  EXPECT_EQ(Ended(stats, RequestEnd::kAbort), 1);
  EXPECT_EQ(stats.time_to_first_token.count(), 1);
  for (const Histogram& histogram : {stats.e2e_time, stats.prefill_time, stats.decode_time,
                                     stats.inference_time, stats.prompt_length}) {
    EXPECT_EQ(histogram.count(), 0);
  }
}

// The sums of the engine's own latencies lie within what the clock outside brackets.
TEST(EngineStats, LatenciesAreThoseThatAClientSees) {
  TempDir dir;
  WriteTinyModel(dir.path(), {});
  LocalEngine local(dir.path(), {.pp_size = 2});
  std::mt19937_64 random(3);
  std::vector<std::unique_ptr<TimingSink>> sinks;
  int64_t prompt_tokens = 0;
  int64_t generated = 0;
  constexpr int kRequests = 12;
  for (int i = 0; i < kRequests; ++i) {
    const int64_t prompt = 1 + static_cast<int64_t>(random() % 30);
    const int64_t max_tokens = 1 + static_cast<int64_t>(random() % 20);
    prompt_tokens += prompt;
    generated += max_tokens;
    sinks.push_back(std::make_unique<TimingSink>());
    ASSERT_TRUE(local.engine().Submit(Request(prompt, max_tokens, i), sinks.back().get()).ok());
  }
  constexpr absl::Duration kQueued = absl::Milliseconds(50);
  absl::SleepFor(kQueued);
  local.Start();
  local.Stop();
  const EngineStats stats = local.engine().stats();

  double first_tokens = 0;
  double ends = 0;
  double decodes = 0;
  double queued = 0;
  for (const auto& sink : sinks) {
    first_tokens += static_cast<double>(sink->first_token_ns - sink->begin_ns) * 1e-9;
    ends += static_cast<double>(sink->end_ns - sink->begin_ns) * 1e-9;
    decodes += static_cast<double>(sink->last_token_ns - sink->first_token_ns) * 1e-9;
    EXPECT_GE(sink->queue_time, kQueued);
    queued += absl::ToDoubleSeconds(sink->queue_time);
  }
  EXPECT_EQ(stats.prompt_tokens, prompt_tokens);
  EXPECT_EQ(stats.generation_tokens, generated);
  EXPECT_EQ(Ended(stats, RequestEnd::kLength), kRequests);
  EXPECT_EQ(stats.queue_time.count(), kRequests);
  EXPECT_EQ(stats.time_to_first_token.count(), kRequests);
  EXPECT_EQ(stats.e2e_time.count(), kRequests);
  EXPECT_EQ(stats.inter_token_latency.count(), generated - kRequests);

  EXPECT_NEAR(stats.queue_time.sum(), queued, 1e-6);
  EXPECT_LE(stats.time_to_first_token.sum(), first_tokens);
  EXPECT_LE(stats.e2e_time.sum(), ends);
  EXPECT_GE(stats.e2e_time.sum(), absl::ToDoubleSeconds(kQueued) * kRequests + decodes * 0.5);
  // One output each, so the parts make up the whole.
  EXPECT_NEAR(stats.queue_time.sum() + stats.prefill_time.sum(), stats.time_to_first_token.sum(),
              1e-6);
  EXPECT_NEAR(stats.prefill_time.sum() + stats.decode_time.sum(), stats.inference_time.sum(), 1e-6);
  EXPECT_NEAR(stats.inter_token_latency.sum(), stats.decode_time.sum(), 1e-6);
  EXPECT_LE(stats.queue_time.sum() + stats.inference_time.sum(), stats.e2e_time.sum());
}

// Whoever reads while the engine works sees the figures of one moment.
TEST(EngineStats, ASnapshotIsOfOneMoment) {
  TempDir dir;
  WriteTinyModel(dir.path(), {});
  LocalEngine local(dir.path(), {.pp_size = 2});
  constexpr int kRequests = 24;
  TimingSink sinks[kRequests];
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(local.engine().Submit(Request(5 + i, 60, i), &sinks[i]).ok());
  }
  std::atomic<bool> done{false};
  int64_t num_different = 0;
  std::thread reader([&] {
    int64_t last_tokens = 0;
    while (!done) {
      const EngineStats stats = local.engine().stats();
      const int64_t first = stats.time_to_first_token.count();
      // Each token is its output's first or ends a gap.
      ASSERT_EQ(stats.generation_tokens, first + stats.inter_token_latency.count());
      ASSERT_LE(stats.e2e_time.count(), first);
      ASSERT_LE(first, stats.queue_time.count());
      ASSERT_GE(stats.generation_tokens, last_tokens);
      num_different += stats.generation_tokens > last_tokens ? 1 : 0;
      last_tokens = stats.generation_tokens;
      const EngineLoad load = local.engine().load();
      ASSERT_LE(load.used_blocks + load.cached_blocks, load.total_blocks);
      ASSERT_LE(load.running_requests + load.queued_requests, kRequests);
      absl::SleepFor(absl::Microseconds(100));
    }
  });
  local.Start();
  local.Stop();
  done = true;
  reader.join();
  EXPECT_GT(num_different, 10);  // it did look while the engine worked
  EXPECT_EQ(local.engine().stats().generation_tokens, kRequests * 60);
}

TEST(EngineStats, AGapIsAsLongAsTheSinkMadeIt) {
  TempDir dir;
  WriteTinyModel(dir.path(), {});
  LocalEngine local(dir.path(), {});
  TimingSink sink(absl::Milliseconds(20));
  ASSERT_TRUE(local.engine().Submit(Request(3, 5), &sink).ok());
  local.Start();
  local.Stop();
  const EngineStats stats = local.engine().stats();
  EXPECT_EQ(stats.inter_token_latency.count(), 4);
  EXPECT_EQ(stats.inter_token_latency.count_in(0), 0);  // up to 1 ms
  EXPECT_GE(stats.inter_token_latency.sum(), 0.08);
  EXPECT_GE(stats.time_per_output_token.sum(), 0.02);
  EXPECT_LT(stats.time_to_first_token.sum(), stats.e2e_time.sum());
}

TEST(EngineStats, CountsHowRequestsEnd) {
  TempDir dir;
  WriteTinyModel(dir.path(), {});
  LocalEngine local(dir.path(), {.num_blocks = 600});
  local.Start();
  TimingSink sinks[5];
  GenerationRequest three = Request(4, 6);
  three.num_sequences = 3;
  ASSERT_TRUE(local.engine().Submit(three, &sinks[0]).ok());
  GenerationRequest score = Request(9, 0);
  score.prompt_logprobs = true;
  ASSERT_TRUE(local.engine().Submit(score, &sinks[1]).ok());
  GenerationRequest trivial = Request(1, 0);  // scored without a step
  trivial.prompt_logprobs = true;
  ASSERT_TRUE(local.engine().Submit(trivial, &sinks[2]).ok());
  GenerationRequest late = Request(5, 100);
  late.request_id = "late";
  ASSERT_TRUE(local.engine().Submit(late, &sinks[3]).ok());
  ASSERT_TRUE(local.engine().Cancel("late").ok());
  for (int i = 0; i < 4; ++i) sinks[i].ended.WaitForNotification();

  // Who has been told the end sees it counted.
  const EngineStats stats = local.engine().stats();
  EXPECT_EQ(Ended(stats, RequestEnd::kLength), 3);
  EXPECT_EQ(Ended(stats, RequestEnd::kAbort), 1);
  EXPECT_EQ(Ended(stats, RequestEnd::kStop) + Ended(stats, RequestEnd::kError), 0);
  EXPECT_EQ(stats.generation_tokens - sinks[3].num_tokens, 18);
  EXPECT_EQ(stats.inter_token_latency.count() - std::max<int64_t>(sinks[3].num_tokens - 1, 0), 15);
  EXPECT_EQ(stats.output_length.sum(), 18);
  EXPECT_EQ(stats.prompt_length.sum(), 4 + 9 + 1);
  EXPECT_EQ(stats.prompt_tokens, 4 + 9 + 1 + (sinks[3].num_tokens > 0 ? 5 : 0));
  EXPECT_GT(stats.steps, 0);
  local.Stop();
}

TEST(EngineStats, CountsPreemptionsAndPrefixHits) {
  TempDir dir;
  WriteTinyModel(dir.path(), {});
  // Room for one of the two at its full length and half of the other.
  LocalEngine local(dir.path(), {.block_size = 4, .num_blocks = 15});
  TimingSink sinks[2];
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(local.engine().Submit(Request(8, 32, /*seed=*/5), &sinks[i]).ok());
  }
  local.Start();
  local.Stop();
  const EngineStats stats = local.engine().stats();
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.queue_time.count(), 2);
  EXPECT_EQ(stats.prompt_tokens, 16);
  EXPECT_EQ(stats.generation_tokens, 64);
  EXPECT_EQ(stats.prefix_cache_queries, 16);
  EXPECT_EQ(stats.prefix_cache_hits, 4);  // the last of the prompt is always computed
}

}  // namespace
}  // namespace polystrate
