// Long texts are read by threads of their own, and only so many of them wait.

#include "rpc/request_readers.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/synchronization/notification.h"
#include "engine/retry_delay.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

TEST(RequestReaders, BoundsWhatWaitsAndReadsAllOfIt) {
  constexpr int64_t kHalf = RequestReaders::kMaxWaitingBytes / 2;
  std::atomic<int> num_read{0};
  absl::Notification go;
  {
    RequestReaders readers(1);
    const auto read = [&] {
      go.WaitForNotification();
      ++num_read;
    };
    EXPECT_TRUE(readers.Add(3 * kHalf, read).ok());  // alone
    const absl::Status refused = readers.Add(1, read);
    EXPECT_TRUE(Fails(refused, absl::StatusCode::kResourceExhausted, "and this request has 1"));
    EXPECT_TRUE(RetryDelayOf(refused).has_value());
    go.Notify();
    while (num_read < 1 || !readers.Add(kHalf, read).ok()) {
    }
    while (!readers.Add(kHalf, read).ok()) {
    }
  }
  EXPECT_EQ(num_read, 3);
}

TEST(RequestReaders, ManyAtOnce) {
  std::atomic<int> num_read{0};
  {
    RequestReaders readers(3);
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(readers.Add(1000, [&] { ++num_read; }).ok());
  }
  EXPECT_EQ(num_read, 1000);
}

}  // namespace
}  // namespace polystrate
