#include "rpc/client.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

TEST(ClientTest, WaitsUntilTheServerServes) {
  ServedEngine served;
  EngineClient client(served.address());
  absl::Status status = client.WaitForServing(absl::Milliseconds(300));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("NOT_SERVING"), absl::string_view::npos) << status;
  std::thread starter([&served] {
    absl::SleepFor(absl::Milliseconds(300));
    served.Run();
  });
  EXPECT_TRUE(client.WaitForServing(absl::Seconds(30)).ok());
  starter.join();

  std::string text;
  pb::GenerateRequest request = GreedyRequest(12);
  const auto add = [&text](const pb::GenerateResponse& event) { text += event.token().text(); };
  status = client.Generate(request, add);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(text, Ask(served.inference(), request).text);

  request.set_model("other");
  status = client.Generate(request, add);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
}

TEST(ClientTest, NobodyThere) {
  EngineClient client("127.0.0.1:1");
  const absl::Status status = client.WaitForServing(absl::Milliseconds(300));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("127.0.0.1:1"), absl::string_view::npos) << status;
}

TEST(ClientTest, CancelEndsAStreamAndAWait) {
  ServedEngine served;
  served.Run();
  EngineClient client(served.address());
  int events = 0;
  const absl::Status status =
      client.Generate(GreedyRequest(20000), [&](const pb::GenerateResponse&) {
        if (++events == 3) client.Cancel();
      });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(served.BecomesIdle());

  EngineClient waiting("127.0.0.1:1");
  std::thread canceller([&waiting] { waiting.Cancel(); });
  EXPECT_EQ(waiting.WaitForServing(absl::Minutes(1)).code(), absl::StatusCode::kCancelled);
  canceller.join();
}

TEST(ClientTest, ADeadlineEndsAStream) {
  ServedEngine served;
  served.Run();
  EngineClient client(served.address());
  const absl::Status status = client.Generate(
      GreedyRequest(32000), [](const pb::GenerateResponse&) {},
      absl::Now() + absl::Milliseconds(300));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(served.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
