// What may be queued, and what a client that finds no room is told to wait.

#include "engine/queue_bound.h"

#include <gtest/gtest.h>

#include <optional>

#include "engine/retry_delay.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

constexpr auto kFull = absl::StatusCode::kResourceExhausted;
const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

absl::Duration DelayOf(const absl::Status& status) {
  const std::optional<absl::Duration> delay = RetryDelayOf(status);
  EXPECT_TRUE(delay.has_value()) << status;
  return delay.value_or(absl::ZeroDuration());
}

TEST(QueueBound, TakesAnythingWhenEmptyAndThenWhatFits) {
  QueueBound queue({.requests = 4, .tokens = 100});
  EXPECT_TRUE(queue.Check({.requests = 64, .tokens = 5000}, kStart).ok());
  queue.Add({.requests = 1, .tokens = 60}, kStart);
  EXPECT_TRUE(queue.Check({.requests = 3, .tokens = 40}, kStart).ok());
  EXPECT_TRUE(Fails(queue.Check({.requests = 4, .tokens = 40}, kStart), kFull,
                    "1 of 4 requests and 60 of 100 prompt tokens wait, and this one has 4 and 40"));
  EXPECT_FALSE(queue.Check({.requests = 1, .tokens = 41}, kStart).ok());
  queue.Remove({.requests = 1, .tokens = 60}, kStart);
  EXPECT_TRUE(queue.Check({.requests = 64, .tokens = 5000}, kStart).ok());
}

TEST(QueueBound, TheDelayIsTheTimeThatTheQueueNeedsAtItsPace) {
  QueueBound queue({.requests = 100, .tokens = 1'000'000});
  queue.Add({.requests = 100, .tokens = 1000}, kStart);
  // 4 requests a second for five seconds.
  for (int i = 1; i <= 20; ++i) {
    const absl::Time now = kStart + i * absl::Milliseconds(250);
    queue.Remove({.requests = 1, .tokens = 10}, now);
    queue.Add({.requests = 1, .tokens = 10}, now);
  }
  const absl::Time now = kStart + absl::Seconds(5);
  const absl::Duration delay = DelayOf(queue.Check({.requests = 40, .tokens = 1}, now));
  EXPECT_GE(delay, absl::Seconds(9));
  EXPECT_LE(delay, absl::Seconds(11));
  // Bounded on both sides.
  EXPECT_EQ(DelayOf(queue.Check({.requests = 1, .tokens = 1}, now)), QueueBound::kMinRetryDelay);
  EXPECT_EQ(DelayOf(queue.Check({.requests = 5000, .tokens = 1}, now)), QueueBound::kMaxRetryDelay);
}

TEST(QueueBound, TokensCountLikeRequests) {
  QueueBound queue({.requests = 1000, .tokens = 10'000});
  queue.Add({.requests = 10, .tokens = 10'000}, kStart);
  queue.Remove({.requests = 1, .tokens = 1000}, kStart + absl::Seconds(1));
  queue.Add({.requests = 1, .tokens = 1000}, kStart + absl::Seconds(1));
  const auto delay =
      DelayOf(queue.Check({.requests = 1, .tokens = 6000}, kStart + absl::Seconds(1)));
  EXPECT_GE(delay, absl::Seconds(2));
  EXPECT_LE(delay, absl::Seconds(6));
}

TEST(QueueBound, ANewQueueDoesNotRememberHowIdleItWas) {
  QueueBound queue({.requests = 2, .tokens = 100});
  // One request a second, each at once: nothing is learnt from them.
  for (int i = 0; i < 60; ++i) {
    queue.Add({.requests = 1, .tokens = 10}, kStart + absl::Seconds(i));
    queue.Remove({.requests = 1, .tokens = 10}, kStart + absl::Seconds(i));
  }
  const absl::Time now = kStart + absl::Seconds(60);
  queue.Add({.requests = 2, .tokens = 10}, now);
  EXPECT_EQ(DelayOf(queue.Check({.requests = 2, .tokens = 10}, now)), QueueBound::kMinRetryDelay);
  // Nor that nothing has left this one yet, for which it is the longer the likelier to take longer.
  const absl::Time later = now + absl::Seconds(30);
  EXPECT_GT(DelayOf(queue.Check({.requests = 2, .tokens = 10}, later)), absl::Seconds(10));
}

TEST(RetryDelay, GoesWithTheStatus) {
  const absl::Status plain = absl::ResourceExhaustedError("full");
  EXPECT_EQ(RetryDelayOf(plain), std::nullopt);
  const absl::Status status = WithRetryDelay(plain, absl::Milliseconds(2500));
  EXPECT_EQ(RetryDelayOf(status), absl::Milliseconds(2500));
  EXPECT_EQ(status.message(), "full");
}

}  // namespace
}  // namespace polystrate
