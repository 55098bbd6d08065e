// A running engine that is asked for too much, too late or for nothing any more.

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "engine/retry_delay.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

// What one request was told; any thread may wait for it.
class Watcher : public TokenSink {
 public:
  void OnPrompt(const std::vector<PromptScore>&) override {}
  void OnToken(const TokenInfo&) override {
    ++num_tokens;
    if (on_token) on_token();
  }
  void OnFinished(const Finished& finished) override {
    if (finished.usage.has_value()) End(absl::OkStatus(), finished.reason);
  }
  void OnError(const absl::Status& error) override { End(error, std::nullopt); }

  bool WaitForTokens(int64_t n) const {
    const absl::Time until = absl::Now() + kPatience;
    while (num_tokens < n && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
    return num_tokens >= n;
  }
  bool WaitForEnd() const {
    const absl::Time until = absl::Now() + kPatience;
    while (num_ends == 0 && absl::Now() < until) absl::SleepFor(absl::Milliseconds(1));
    return num_ends == 1;
  }

  std::function<void()> on_token;  // on the engine's thread
  std::function<void()> on_end;
  std::atomic<int64_t> num_tokens{0};
  std::atomic<int> num_ends{0};
  // Valid after WaitForEnd().
  absl::Status status;
  std::optional<FinishReason> reason;

 private:
  void End(const absl::Status& end, std::optional<FinishReason> why) {
    status = end;
    reason = why;
    if (on_end) on_end();
    ++num_ends;
  }
};

class Overload : public ::testing::Test {
 protected:
  // One sequence at a time, so that the next one is queued.
  void Start(int pp_size = 1, int64_t max_num_seqs = 1, int64_t max_queued_tokens = 1000) {
    TinyModelSpec spec;
    spec.num_kv_layers = 2;
    spec.num_kv_heads = 2;
    spec.reuse_keys = "post_rope";
    spec.max_position_embeddings = 32768;
    WriteTinyModel(dir_.path(), spec);
    LocalEngineOptions options;
    options.pp_size = pp_size;
    options.num_blocks = 4096;
    options.max_num_seqs = max_num_seqs;
    options.max_queued_requests = 3;
    options.max_queued_tokens = max_queued_tokens;
    local_ = std::make_unique<LocalEngine>(dir_.path(), options);
    local_->Start();
  }
  ~Overload() override {
    if (local_ == nullptr) return;
    engine().CancelAll();
    local_->Stop();
  }

  Engine& engine() { return local_->engine(); }
  // Lives as long as the engine.
  Watcher& NewWatcher() { return watchers_.emplace_back(); }
  absl::Status Submit(const std::string& id, Watcher* sink, int64_t num_prompt_tokens = 3,
                      absl::Time deadline = absl::InfiniteFuture(), int32_t num_sequences = 1) {
    GenerationRequest request;
    request.request_id = id;
    request.prompt = RandomTokens(num_prompt_tokens, 96, next_seed_++);
    request.max_tokens = 30000;
    request.ignore_eos = true;
    request.deadline = deadline;
    request.num_sequences = num_sequences;
    return engine().Submit(std::move(request), sink);
  }
  // A request that runs until it is cancelled.
  void Occupy(Watcher* sink) {
    ASSERT_TRUE(Submit("long", sink).ok());
    ASSERT_TRUE(sink->WaitForTokens(1));
  }
  bool BecomesIdle() {
    const absl::Time until = absl::Now() + kPatience;
    while (absl::Now() < until) {
      const EngineLoad load = engine().load();
      if (load.running_requests + load.queued_requests + load.used_blocks == 0) return true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }

  TempDir dir_;
  std::deque<Watcher> watchers_;
  std::unique_ptr<LocalEngine> local_;
  uint64_t next_seed_ = 1;
};

TEST_F(Overload, AFullQueueRefusesWithARetryDelay) {
  Watcher& running = NewWatcher();
  Watcher* const queued[] = {&NewWatcher(), &NewWatcher(), &NewWatcher()};
  Watcher& refused = NewWatcher();
  Start();
  Occupy(&running);
  for (Watcher* sink : queued) EXPECT_TRUE(Submit("", sink).ok());
  EXPECT_EQ(engine().load().queued_requests, 3);
  EXPECT_EQ(engine().load().waiting_tokens, 9);
  const absl::Status status = Submit("refused", &refused);
  EXPECT_TRUE(Fails(status, absl::StatusCode::kResourceExhausted, "3 of 3 requests"));
  EXPECT_TRUE(RetryDelayOf(status).has_value());
  EXPECT_TRUE(RetryDelayOf(engine().CheckNow(absl::InfiniteFuture())).has_value());
  // One leaves the queue by running, another by being cancelled.
  EXPECT_TRUE(engine().Cancel("long").ok());
  ASSERT_TRUE(queued[0]->WaitForTokens(1));
  EXPECT_TRUE(engine().CheckNow(absl::InfiniteFuture()).ok());
  EXPECT_TRUE(Submit("refused", &refused).ok());
  engine().CancelAll();
  EXPECT_TRUE(refused.WaitForEnd());
  EXPECT_EQ(refused.reason, FinishReason::kCancelled);
  EXPECT_EQ(refused.num_tokens, 0);
  EXPECT_TRUE(BecomesIdle());
}

TEST_F(Overload, AFullQueueOfTokensRefusesToo) {
  Watcher& running = NewWatcher();
  Watcher& queued = NewWatcher();
  Watcher& refused = NewWatcher();
  Watcher& small = NewWatcher();
  Start();
  Occupy(&running);
  EXPECT_TRUE(Submit("queued", &queued, 600).ok());
  EXPECT_TRUE(Fails(Submit("refused", &refused, 401), absl::StatusCode::kResourceExhausted,
                    "600 of 1000 prompt tokens"));
  EXPECT_TRUE(Submit("small", &small, 400).ok());
}

TEST_F(Overload, WhatFitsTheEngineAlwaysFitsAnEmptyQueue) {
  Watcher& large = NewWatcher();
  Watcher& wide = NewWatcher();
  Start(/*pp_size=*/1, /*max_num_seqs=*/8, /*max_queued_tokens=*/10);
  EXPECT_TRUE(Submit("large", &large, 2000).ok());
  ASSERT_TRUE(large.WaitForTokens(1));
  // Each output takes a place: eight of three.
  EXPECT_TRUE(Submit("wide", &wide, 3, absl::InfiniteFuture(), /*num_sequences=*/8).ok());
  ASSERT_TRUE(wide.WaitForTokens(8));
}

TEST_F(Overload, ADeadlinePassesInTheQueueBeforePrefill) {
  Watcher& running = NewWatcher();
  Watcher& late = NewWatcher();
  Watcher& later = NewWatcher();
  Start();
  Occupy(&running);
  const absl::Time deadline = absl::Now() + absl::Milliseconds(50);
  ASSERT_TRUE(Submit("late", &late, 3, deadline).ok());
  ASSERT_TRUE(Submit("later", &later, 3, deadline + absl::Milliseconds(1)).ok());
  ASSERT_TRUE(late.WaitForEnd());
  EXPECT_GE(absl::Now(), deadline);
  EXPECT_TRUE(
      Fails(late.status, absl::StatusCode::kDeadlineExceeded, "while the request was queued"));
  EXPECT_EQ(late.num_tokens, 0);
  ASSERT_TRUE(later.WaitForEnd());
  EXPECT_EQ(engine().load().queued_requests, 0);
  const int64_t told = running.num_tokens;
  EXPECT_TRUE(running.WaitForTokens(told + 10));  // the other goes on
  EXPECT_TRUE(Fails(Submit("past", &late, 3, absl::Now()), absl::StatusCode::kDeadlineExceeded,
                    "had passed when the request arrived"));
}

TEST_F(Overload, ADeadlinePassesInDecode) {
  for (const int pp_size : {1, 2}) {
    Watcher& other = NewWatcher();
    Watcher& sink = NewWatcher();
    Start(pp_size, /*max_num_seqs=*/2);
    ASSERT_TRUE(Submit("other", &other, 3).ok());
    ASSERT_TRUE(other.WaitForTokens(1));  // the engine has started, which may take its time
    ASSERT_TRUE(Submit("a", &sink, 3, absl::Now() + absl::Milliseconds(200)).ok());
    ASSERT_TRUE(sink.WaitForEnd());
    EXPECT_TRUE(engine().Cancel("other").ok());
    EXPECT_TRUE(Fails(sink.status, absl::StatusCode::kDeadlineExceeded,
                      "after " + std::to_string(sink.num_tokens) + " tokens"));
    EXPECT_GT(sink.num_tokens, 0);
    EXPECT_TRUE(BecomesIdle());
    local_->Stop();
    local_.reset();
  }
}

// A step is under way in each stage when the cancellation comes; after them nothing of the request
// is left. The other sequence's tokens count the steps.
TEST_F(Overload, ACancelledRequestGivesItsBlocksBackWithinAStepOfEachStage) {
  constexpr int kStages = 2;
  Watcher& other = NewWatcher();
  Watcher& cancelled = NewWatcher();
  Start(kStages, /*max_num_seqs=*/2);
  Occupy(&other);
  std::atomic<int64_t> other_tokens_at_cancel{-1};
  std::atomic<int64_t> other_tokens_at_end{-1};
  std::atomic<int64_t> blocks_at_end{-1};
  cancelled.on_token = [&] {
    if (cancelled.num_tokens != 40) return;
    other_tokens_at_cancel = other.num_tokens.load();
    EXPECT_TRUE(engine().Cancel("cancelled").ok());
  };
  cancelled.on_end = [&] {
    other_tokens_at_end = other.num_tokens.load();
    blocks_at_end = engine().load().used_blocks;
  };
  ASSERT_TRUE(Submit("cancelled", &cancelled, /*num_prompt_tokens=*/800).ok());
  ASSERT_TRUE(cancelled.WaitForEnd());
  EXPECT_EQ(cancelled.reason, FinishReason::kCancelled);
  EXPECT_LE(other_tokens_at_end - other_tokens_at_cancel, kStages);
  EXPECT_LE(cancelled.num_tokens, 40 + kStages);
  // Those of the other one alone: its prompt, its tokens and those in flight.
  EXPECT_LE(blocks_at_end, (3 + other_tokens_at_end + kStages + 15) / 16);
}

TEST_F(Overload, AnIdIsFreeOnceItsRequestIsCancelledOrLate) {
  Watcher& running = NewWatcher();
  Watcher& first = NewWatcher();
  Watcher& second = NewWatcher();
  Watcher& third = NewWatcher();
  Start();
  Occupy(&running);
  ASSERT_TRUE(Submit("id", &first).ok());
  EXPECT_EQ(Submit("id", &second).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(engine().Cancel("id").ok());
  EXPECT_EQ(engine().Cancel("id").code(), absl::StatusCode::kNotFound);
  const absl::Time deadline = absl::Now() + absl::Milliseconds(20);
  ASSERT_TRUE(Submit("id", &second, 3, deadline).ok());
  EXPECT_EQ(engine().Cancel("id", &first).code(), absl::StatusCode::kNotFound);
  while (absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(Submit("id", &third).ok());
  EXPECT_TRUE(first.WaitForEnd());
  EXPECT_TRUE(second.WaitForEnd());
  EXPECT_EQ(second.status.code(), absl::StatusCode::kDeadlineExceeded);
  // The ends of the first two have not taken the third's id away.
  EXPECT_EQ(Submit("id", &first).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(engine().Cancel("id", &third).ok());
  EXPECT_TRUE(third.WaitForEnd());
  EXPECT_EQ(third.reason, FinishReason::kCancelled);
}

// An id may be used again in the very call that says its request has ended.
TEST_F(Overload, AnIdIsFreeWhenItsEndIsTold) {
  Watcher& next = NewWatcher();
  std::atomic<int> refused{0};
  Start();
  for (int i = 0; i < 50; ++i) {
    Watcher& sink = NewWatcher();
    sink.on_end = [&] { refused += Submit("id", &next).ok() ? 0 : 1; };
    ASSERT_TRUE(Submit("id", &sink).ok());
    ASSERT_TRUE(sink.WaitForTokens(1));
    const int ends = next.num_ends;
    EXPECT_TRUE(engine().Cancel("id", &sink).ok());
    ASSERT_TRUE(sink.WaitForEnd());
    ASSERT_TRUE(engine().Cancel("id", &next).ok());
    while (next.num_ends == ends) absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(refused, 0);
}

TEST_F(Overload, AnAbortStormStopsNobodyElse) {
  Watcher& running = NewWatcher();
  Start(/*pp_size=*/1, /*max_num_seqs=*/64);
  Occupy(&running);
  std::vector<std::thread> threads;
  std::vector<std::unique_ptr<Watcher>> sinks(400);
  std::atomic<int> accepted{0};
  for (auto& sink : sinks) sink = std::make_unique<Watcher>();
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string id = std::to_string(t) + "-" + std::to_string(i);
        GenerationRequest request;
        request.request_id = id;
        request.prompt = {1, 2, 3};
        request.max_tokens = 30000;
        Watcher& sink = *sinks[t * 100 + i];
        if (!engine().Submit(std::move(request), &sink).ok()) {
          ++sink.num_ends;
          continue;
        }
        ++accepted;
        for (int k = 0; k < 100; ++k) engine().Cancel(id).IgnoreError();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(accepted, 0);
  for (auto& sink : sinks) EXPECT_TRUE(sink->WaitForEnd());
  const int64_t told = running.num_tokens;
  EXPECT_TRUE(running.WaitForTokens(told + 10));
  EXPECT_EQ(running.num_ends, 0);
}

}  // namespace
}  // namespace polystrate
