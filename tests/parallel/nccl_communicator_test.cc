// NCCL's groups in one process: what is said without a GPU, and a group of one on it. (Several
// ranks: tests/e2e/nccl_test.cc.)

#include "parallel/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/testing/communicator_checks.h"

namespace polystrate {
namespace {

using ::testing::HasSubstr;

absl::Status Join(std::unique_ptr<Communicator> host, absl::Duration timeout) {
  return MakeNcclCommunicator(std::move(host), {.name = "tp", .timeout = timeout}).status();
}

TEST(NcclCommunicator, ABuildWithoutItSaysSo) {
  if (!NcclVersion().empty()) GTEST_SKIP() << "built with NCCL";
  const absl::Status status = Join(MakeSelfCommunicator(), absl::Seconds(1));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("built without NCCL"));
}

// The id travels, then every rank fails, and says why as NCCL puts it.
TEST(NcclCommunicator, WithoutAGpuEveryRankGetsNcclsError) {
  if (NcclVersion().empty()) GTEST_SKIP() << "built without NCCL";
  if (NumCudaDevices() > 0) GTEST_SKIP() << "there is a GPU";
  auto group = MakeThreadCommunicators(3);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&group, rank] {
      const absl::Status status = Join(std::move(group[rank]), absl::Seconds(20));
      EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
      const std::string message(status.message());
      EXPECT_THAT(message, HasSubstr(absl::StrCat("NCCL, group tp, rank ", rank, " of 3: ")));
      EXPECT_THAT(message, HasSubstr("joining failed: unhandled cuda error"));
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

TEST(NcclCommunicator, AGroupOfOneKeepsTheContract) {
  if (NcclVersion().empty()) GTEST_SKIP() << "built without NCCL";
  if (NumCudaDevices() == 0) GTEST_SKIP() << "no GPU";
  const absl::StatusOr<Stream> gpu = Stream::Cuda(0);
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  const auto group = MakeNcclCommunicator(MakeSelfCommunicator(), {.name = "tp"});
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_EQ(CheckCollectives(*gpu, **group), "");
  EXPECT_EQ(CheckRecordedAllReduce(*gpu, **group), "");
  EXPECT_EQ(CheckCommunicator(Stream::Cpu(1), **group), "");
  EXPECT_TRUE((*group)->Health().ok()) << (*group)->Health();
}

}  // namespace
}  // namespace polystrate
