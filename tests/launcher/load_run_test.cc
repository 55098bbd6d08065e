#include "launcher/load_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "rpc/connector.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

constexpr auto kNoProgress = [](double) {};

std::vector<std::shared_ptr<grpc::Channel>> ChannelsTo(const std::string& address, int n = 1) {
  std::vector<std::shared_ptr<grpc::Channel>> channels(static_cast<size_t>(n));
  for (auto& channel : channels) channel = Connector().Connect(address);
  return channels;
}

std::vector<pb::GenerateRequest> Requests(size_t n) {
  std::vector<pb::GenerateRequest> requests;
  for (size_t i = 0; i < n; ++i) requests.push_back(GreedyRequest(5 + 7 * i % 11));
  return requests;
}

int64_t MostOpen(const LoadRun& run) {
  int64_t most = 0;
  for (const LoadOutcome& a : run.outcomes) {
    most = std::max<int64_t>(
        most, std::count_if(run.outcomes.begin(), run.outcomes.end(), [&a](const LoadOutcome& b) {
          return b.start_ns <= a.start_ns && a.start_ns < b.end_ns;
        }));
  }
  return most;
}

TEST(LoadRunTest, AClosedLoopKeepsItsBoundAndLosesNothing) {
  ServedEngine served;
  served.Run();
  LoadClient client(ChannelsTo(served.address(), 2));
  const auto requests = Requests(40);
  double done = 0;
  const LoadRun run = RunLoad(client, requests, {std::vector<double>(40, 0.0), 4},
                              [&done](double share) { done = share; });
  EXPECT_EQ(done, 1.0);
  EXPECT_FALSE(run.interrupted);
  EXPECT_EQ(client.running(), 0);
  EXPECT_LE(MostOpen(run), 4);
  EXPECT_GE(MostOpen(run), 2);
  ASSERT_EQ(run.outcomes.size(), 40u);
  for (size_t i = 0; i < run.outcomes.size(); ++i) {
    const LoadOutcome& outcome = run.outcomes[i];
    ASSERT_TRUE(outcome.status.ok()) << outcome.status;
    EXPECT_EQ(outcome.index, static_cast<int64_t>(i));
    EXPECT_EQ(outcome.prompt_tokens, 3);
    EXPECT_EQ(outcome.completion_tokens, requests[i].stopping().max_tokens());
    int64_t tokens = 0;
    int64_t before = outcome.start_ns;
    for (const TokenArrival& arrival : outcome.arrivals) {
      tokens += arrival.num_tokens;
      EXPECT_GE(arrival.at_ns, before);
      before = arrival.at_ns;
    }
    EXPECT_EQ(tokens, outcome.completion_tokens);
    EXPECT_GE(outcome.start_ns, run.begin_ns);
    EXPECT_GE(outcome.end_ns, before);
    EXPECT_LE(outcome.end_ns, run.end_ns);
  }
  EXPECT_EQ(run.outcomes[3].text, Ask(served.inference(), requests[3]).text);
}

// Endless answers: no request could be sent if it waited for another.
TEST(LoadRunTest, AnOpenLoopKeepsItsTimesAndAnInterruptEndsIt) {
  ServedEngine served;
  served.Run();
  LoadClient client(ChannelsTo(served.address()));
  const std::vector<pb::GenerateRequest> requests(6, GreedyRequest(30000));
  const std::vector<double> arrivals = {0.0, 0.05, 0.05, 0.2, 0.3, 3600.0};
  std::thread interrupter([&] {
    while (served.engine().load().running_requests + served.engine().load().queued_requests < 5) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    client.Interrupt();
  });
  const LoadRun run = RunLoad(client, requests, {arrivals, std::nullopt}, kNoProgress);
  interrupter.join();
  EXPECT_TRUE(run.interrupted);
  ASSERT_EQ(run.outcomes.size(), 5u);
  for (size_t i = 0; i < run.outcomes.size(); ++i) {
    const double sent = static_cast<double>(run.outcomes[i].start_ns - run.begin_ns) * 1e-9;
    EXPECT_GE(sent, arrivals[i]);
    EXPECT_LT(sent, arrivals[i] + 2.0);  // a busy machine; answers would take longer
    EXPECT_EQ(run.outcomes[i].status.code(), absl::StatusCode::kCancelled);
  }
  EXPECT_GE(run.max_send_delay_ns, 0);
  EXPECT_TRUE(served.BecomesIdle());
  EXPECT_TRUE(RunLoad(client, requests, {arrivals, 1}, kNoProgress).outcomes.empty());
}

TEST(LoadRunTest, FailuresKeepTheirReasons) {
  ServedEngine served;
  served.Run();
  auto requests = Requests(3);
  requests[1].set_model("other");
  requests[2].mutable_sampling()->set_temperature(9.0);
  LoadClient client(ChannelsTo(served.address()));
  const LoadRun run =
      RunLoad(client, requests, {std::vector<double>(3, 0.0), std::nullopt}, kNoProgress);
  EXPECT_TRUE(run.outcomes[0].status.ok()) << run.outcomes[0].status;
  EXPECT_EQ(run.outcomes[1].status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(run.outcomes[2].status.code(), absl::StatusCode::kInvalidArgument);

  LoadClient nowhere(ChannelsTo("127.0.0.1:1"));
  const LoadRun refused = RunLoad(nowhere, Requests(2), {{0.0, 0.0}, 1}, kNoProgress);
  for (const LoadOutcome& outcome : refused.outcomes) {
    EXPECT_EQ(outcome.status.code(), absl::StatusCode::kUnavailable) << outcome.status;
  }
}

TEST(LoadRunTest, AClientThatGoesAwayTakesItsStreamsAlong) {
  ServedEngine served;
  served.Run();
  {
    LoadClient client(ChannelsTo(served.address()));
    for (int i = 0; i < 8; ++i) client.Send(i, GreedyRequest(30000));
    EXPECT_EQ(client.running(), 8);
  }
  EXPECT_TRUE(served.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
