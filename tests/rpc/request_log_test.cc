#include "rpc/request_log.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

RequestRecord Record(const std::string& id) {
  RequestRecord record;
  record.time = absl::FromUnixMicros(1'700'000'000'123'456);
  record.request_id = id;
  return record;
}

std::vector<std::string> LinesOf(const std::string& path) {
  return absl::StrSplit(ReadFile(path), '\n', absl::SkipEmpty());
}

bool Becomes(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
  return condition();
}

TEST(RequestLog, ALineSaysWhatIsKnown) {
  RequestRecord record = Record("a\"\n\xff");
  EXPECT_EQ(ToLine(record),
            "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"request_id\":\"a\\\"\\n\xef\xbf\xbd\","
            "\"status\":\"OK\",\"priority\":0,\"prompt_tokens\":0,\"cached_tokens\":0,"
            "\"completion_tokens\":0}\n");
  record = Record("b");
  record.peer = "ipv4:127.0.0.1:1";
  record.model = "demo";
  record.priority = -2;
  record.prompt_tokens = 30;
  record.cached_tokens = 16;
  record.completion_tokens = 4;
  record.queue_seconds = 0.00123456;
  record.ttft_seconds = 0;
  record.e2e_seconds = 1.5;
  record.status = absl::StatusCode::kDeadlineExceeded;
  record.engine = "127.0.0.1:2";
  record.attempts = 3;
  record.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_EQ(ToLine(record),
            "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"request_id\":\"b\","
            "\"peer\":\"ipv4:127.0.0.1:1\",\"model\":\"demo\",\"status\":\"DEADLINE_EXCEEDED\","
            "\"priority\":-2,\"prompt_tokens\":30,\"cached_tokens\":16,\"completion_tokens\":4,"
            "\"queue_seconds\":0.001235,\"ttft_seconds\":0,\"e2e_seconds\":1.5,"
            "\"engine\":\"127.0.0.1:2\",\"attempts\":3,\"traceparent\":"
            "\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}\n");
}

TEST(RequestLog, KeepsEveryLineOfManyThreadsAndWhatWasThere) {
  TempDir dir;
  const std::string path = dir.File("requests.jsonl");
  WriteFile(path, "{}\n");
  {
    const auto log = *RequestLog::Open(path);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&log, t] {
        for (int i = 0; i < 500; ++i) log->Add(Record(absl::StrCat(t, "-", i)));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::vector<std::string> lines = LinesOf(path);
  ASSERT_EQ(lines.size(), 2001u);
  EXPECT_EQ(lines[0], "{}");
  lines.erase(lines.begin());
  std::sort(lines.begin(), lines.end());
  EXPECT_EQ(std::unique(lines.begin(), lines.end()), lines.end());
}

TEST(RequestLog, FollowsAFileThatIsRotated) {
  TempDir dir;
  const std::string path = dir.File("requests.jsonl");
  const auto log = *RequestLog::Open(path);
  log->Add(Record("first"));
  ASSERT_TRUE(Becomes([&] { return log->num_written() == 1; }));
  std::filesystem::rename(path, path + ".1");
  log->Add(Record("second"));
  ASSERT_TRUE(Becomes([&] { return log->num_written() == 2; }));
  EXPECT_EQ(LinesOf(path + ".1").size(), 1u);
  EXPECT_EQ(LinesOf(path).size(), 1u);
  std::filesystem::resize_file(path, 0);  // as logrotate's copytruncate does
  log->Add(Record("third"));
  ASSERT_TRUE(Becomes([&] { return log->num_written() == 3; }));
  ASSERT_EQ(LinesOf(path).size(), 1u);
  EXPECT_NE(LinesOf(path)[0].find("third"), std::string::npos);
}

TEST(RequestLog, AFullDiskLosesLinesAndNothingElse) {
  const auto log = *RequestLog::Open("/dev/full");
  for (int i = 0; i < 10; ++i) log->Add(Record("x"));
  EXPECT_TRUE(Becomes([&] { return log->num_dropped() == 10; }));
  EXPECT_EQ(log->num_written(), 0);
}

// A pipe that nobody empties stands for a disk that hangs.
TEST(RequestLog, ASlowDiskHoldsNobodyUp) {
  TempDir dir;
  const std::string path = dir.File("pipe");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_TRUE(
      Fails(RequestLog::Open(path).status(), absl::StatusCode::kInvalidArgument, "cannot open"));
  const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK);
  absl::Time begin = absl::Now();
  {
    const auto log = *RequestLog::Open(path);
    for (size_t i = 0; i < 3 * RequestLog::kMaxQueued; ++i) log->Add(Record("x"));
    EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
    EXPECT_GE(log->num_dropped(), static_cast<int64_t>(RequestLog::kMaxQueued));
    begin = absl::Now();
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
  close(reader);
}

TEST(RequestLog, RefusesAFileThatCannotBe) {
  EXPECT_TRUE(Fails(RequestLog::Open("/no/such/folder/log").status(),
                    absl::StatusCode::kInvalidArgument,
                    "--request_log: cannot open /no/such/folder/log for appending: No such file"));
}

}  // namespace
}  // namespace polystrate
