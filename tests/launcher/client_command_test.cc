#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/commands.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

struct ClientRun {
  absl::Status status;
  std::string out;
  std::string err;
};

ClientRun RunClient(const Arguments& arguments) {
  ClientRun run;
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  run.status = ClientCommand(arguments);
  run.out = testing::internal::GetCapturedStdout();
  run.err = testing::internal::GetCapturedStderr();
  return run;
}

TEST(ClientCommandTest, PrintsTheTextAndNothingElse) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(30);
  const ClientRun run = RunClient({"--target", served.address(), "--prompt_ids", "11,7,301",
                                   "--temperature", "0", "--max_tokens", "30", "--ignore_eos"});
  ASSERT_TRUE(run.status.ok()) << run.status;
  EXPECT_EQ(run.out, Ask(served.inference(), request).text);
  for (const char* figure : {"time to first token", "tokens/s", "prompt 3 tokens",
                             "generated 30 tokens", "finish reason length"}) {
    EXPECT_NE(run.err.find(figure), std::string::npos) << figure << " in " << run.err;
  }

  const ClientRun text = RunClient({"--target", served.address(), "--prompt", "To be", "--seed",
                                    "3", "--top_k", "5", "--top_p", "0.5", "--max_tokens", "5"});
  EXPECT_TRUE(text.status.ok()) << text.status;
  EXPECT_FALSE(text.out.empty());
}

TEST(ClientCommandTest, SamplingFlagsArrive) {
  ServedEngine served;
  served.Run();
  const Arguments greedy = {"--target",      served.address(),
                            "--prompt_ids",  "11,7,301",
                            "--temperature", "0",
                            "--max_tokens",  "30"};
  const auto run = [&](const Arguments& more) {
    Arguments arguments = greedy;
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ClientRun client = RunClient(arguments);
    EXPECT_TRUE(client.status.ok()) << client.status;
    return client.out;
  };
  const std::string plain = run({"--ignore_eos"});
  pb::GenerateRequest request = GreedyRequest(30);
  request.mutable_sampling()->set_frequency_penalty(1.5);
  request.mutable_sampling()->set_presence_penalty(0.5);
  request.mutable_sampling()->set_repetition_penalty(1.3);
  const std::string penalised = run({"--ignore_eos", "--frequency_penalty", "1.5",
                                     "--presence_penalty", "0.5", "--repetition_penalty", "1.3"});
  EXPECT_EQ(penalised, Ask(served.inference(), request).text);
  EXPECT_NE(penalised, plain);

  // Of two stop texts the one that comes first; a character of ASCII stands in any text.
  size_t at = 5;
  while (at < plain.size() && (plain[at] < '!' || plain[at] > '~')) ++at;
  ASSERT_LT(at, plain.size());
  const std::string stop(1, plain[at]);
  const std::string before = plain.substr(0, plain.find(stop));
  EXPECT_EQ(run({"--ignore_eos", "--stop", "nowhere in it", "--stop", stop}), before);
  EXPECT_EQ(run({"--ignore_eos", "--stop", stop, "--include_stop_in_output"}), before + stop);
  const Answer ids = Ask(served.inference(), GreedyRequest(30));
  EXPECT_LT(run({"--ignore_eos", "--stop_token_ids", absl::StrCat("5,", ids.ids[9])}).size(),
            plain.size());
  EXPECT_EQ(run({"--n", "2", "--ignore_eos"}), "[0] " + plain + "\n[1] " + plain + "\n");
  EXPECT_FALSE(run({"--min_tokens", "30", "--min_p", "0.5"}).empty());
}

TEST(ClientCommandTest, TheUsersMistakesAreNamed) {
  ServedEngine served;
  served.Run();
  struct Case {
    absl::StatusCode code;
    const char* message;  // must hold this
    Arguments arguments;
  };
  const Case cases[] = {
      {absl::StatusCode::kInvalidArgument, "--prompt_ids", {}},
      {absl::StatusCode::kInvalidArgument, "--prompt", {"--prompt", "a", "--prompt_ids", "1"}},
      {absl::StatusCode::kInvalidArgument, "-4", {"--prompt_ids", "1,-4"}},
      {absl::StatusCode::kInvalidArgument, "--max_tokens", {"--prompt", "a", "--max_tokens", "0"}},
      {absl::StatusCode::kInvalidArgument, "--top_k", {"--prompt", "a", "--top_k", "-2"}},
      {absl::StatusCode::kInvalidArgument, "--nonsense", {"--prompt", "a", "--nonsense", "1"}},
      {absl::StatusCode::kInvalidArgument, "--target", {"--prompt", "a", "--target", "localhost"}},
      {absl::StatusCode::kInvalidArgument, "temperature", {"--prompt", "a", "--temperature", "9"}},
      {absl::StatusCode::kNotFound, "tiny", {"--prompt", "a", "--model", "other"}},
  };
  for (const Case& test : cases) {
    Arguments arguments = {"--target", served.address()};
    arguments.insert(arguments.end(), test.arguments.begin(), test.arguments.end());
    const ClientRun run = RunClient(arguments);
    EXPECT_EQ(run.status.code(), test.code) << test.message;
    EXPECT_NE(run.status.message().find(test.message), absl::string_view::npos) << run.status;
    EXPECT_EQ(run.out, "");
  }
}

TEST(ClientCommandTest, GivesUpWhenNothingServes) {
  ServedEngine served;  // never runs
  const ClientRun run =
      RunClient({"--target", served.address(), "--prompt", "a", "--ready_timeout", "0.3"});
  EXPECT_EQ(run.status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_NE(run.status.message().find("NOT_SERVING"), absl::string_view::npos) << run.status;
}

TEST(ClientCommandTest, AnInterruptCancelsTheRequest) {
  ServedEngine served;
  served.Run();
  std::thread user([&served] {
    while (served.engine().load().running_requests == 0) absl::SleepFor(absl::Milliseconds(5));
    kill(getpid(), SIGINT);
  });
  const ClientRun run = RunClient({"--target", served.address(), "--prompt_ids", "11,7,301",
                                   "--max_tokens", "20000", "--ignore_eos"});
  user.join();
  EXPECT_EQ(run.status.code(), absl::StatusCode::kCancelled) << run.status;
  EXPECT_TRUE(served.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
