// What an operator sees of an engine as people run it: serve under mpirun with metrics and a log.

#include <gtest/gtest.h>
#include <signal.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "engine/json.h"
#include "rpc/client.h"
#include "tests/testing/exposition.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// Two stages, each a rank.
class ServeObserved : public ::testing::Test {
 protected:
  ServeObserved() : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    TinyModelSpec spec;
    spec.max_position_embeddings = 4096;
    WriteTinyModel(dir_.path(), spec);
  }

  void Start(const CommandLine& more) {
    CommandLine command = Polystrate({"serve", "--model", dir_.path(), "--pp", "2", "--listen",
                                      address_, "--kv_memory", "16777216"});
    command.insert(command.end(), more.begin(), more.end());
    engine_ = std::make_unique<Process>(Mpirun(2, command));
  }

  // Of "serve: metrics on 127.0.0.1:0 (port N)".
  int MetricsPort() const {
    const std::string err = engine_->Err();
    const size_t line = err.find("serve: metrics on ");
    if (line == std::string::npos) return -1;
    int port = -1;
    const size_t begin = err.find("(port ", line) + 6;
    return absl::SimpleAtoi(err.substr(begin, err.find(')', begin) - begin), &port) ? port : -1;
  }
  Exposition Metrics() const { return *ParseExposition(*Scrape(MetricsPort())); }

  uint32_t Generate(uint32_t max_tokens) const {
    pb::GenerateRequest request;
    for (uint32_t token : {5, 6, 7}) request.mutable_token_ids()->add_ids(token);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    uint32_t tokens = 0;
    const absl::Status status =
        EngineClient(address_).Generate(request, [&](const pb::GenerateResponse& event) {
          tokens += static_cast<uint32_t>(event.token().tokens_size());
        });
    EXPECT_TRUE(status.ok()) << status;
    return tokens;
  }

  // The page once this stage has reported as many steps as were planned: ranks report four times a
  // second.
  Exposition Reported(const std::string& stage) const {
    for (int i = 0; i < 200; ++i) {
      Exposition page = Metrics();
      const double steps = page.Value("polystrate:stage_steps_total", {{"stage", stage}});
      if (steps == page.Value("polystrate:steps_total")) {
        EXPECT_GT(page.Value("polystrate:stage_busy_seconds_total", {{"stage", stage}}), 0);
        const double share = page.Value("polystrate:stage_bubble_share", {{"stage", stage}});
        EXPECT_GE(share, 0);
        EXPECT_LT(share, 1);
        return page;
      }
      absl::SleepFor(absl::Milliseconds(50));
    }
    return {};
  }

  TempDir dir_;
  const std::string address_;
  std::unique_ptr<Process> engine_;
};

TEST_F(ServeObserved, MetricsAndLogTellWhatWasServed) {
  const std::string log = dir_.File("requests.jsonl");
  Start({"--metrics_listen", "127.0.0.1:0", "--request_log", log});
  ASSERT_TRUE(engine_->WaitForOutput("SERVING", absl::Seconds(60))) << engine_->Err();
  EXPECT_EQ(Generate(20) + Generate(5), 25u);
  const Exposition page = Metrics();
  EXPECT_EQ(page.Value("vllm:generation_tokens_total"), 25);
  EXPECT_EQ(page.Value("vllm:prompt_tokens_total"), 6);
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "length"}}), 2);
  EXPECT_EQ(page.Value("polystrate:engine_state", {{"state", "ready"}}), 1);
  for (const char* stage : {"0", "1"}) {
    EXPECT_LT(page.Value("polystrate:rank_silent_seconds", {{"stage", stage}}), 5);
    EXPECT_FALSE(Reported(stage).families.empty()) << stage;
  }

  kill(engine_->pid(), SIGUSR1);
  ASSERT_EQ(engine_->Wait(absl::Seconds(30)), 0) << engine_->Err();
  const std::vector<std::string> lines = absl::StrSplit(ReadFile(log), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 2u);
  const Json line = *Json::Parse(lines[0], "the first line");
  EXPECT_EQ(*line.root().GetInt("completion_tokens"), 20);
  EXPECT_EQ(*line.root().GetString("finish_reason"), "length");
}

TEST_F(ServeObserved, AFullDiskStopsNobody) {
  Start({"--metrics_listen", "127.0.0.1:0", "--request_log", "/dev/full"});
  ASSERT_TRUE(engine_->WaitForOutput("SERVING", absl::Seconds(60))) << engine_->Err();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Generate(3), 3u);
  const auto dropped = [&] { return Metrics().Value("polystrate:request_log_dropped_total"); };
  for (int i = 0; i < 100 && dropped() < 5; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(dropped(), 5);
}

TEST_F(ServeObserved, RefusesToStartWhereItCannotListenOrWrite) {
  Start({"--metrics_listen", "somewhere"});
  EXPECT_EQ(engine_->Wait(absl::Seconds(60)), 2);
  EXPECT_TRUE(absl::StrContains(engine_->Err(), "somewhere")) << engine_->Err();
  Start({"--request_log", "/no/such/folder/log"});
  EXPECT_EQ(engine_->Wait(absl::Seconds(60)), 2);
  EXPECT_TRUE(absl::StrContains(engine_->Err(), "/no/such/folder/log")) << engine_->Err();
}

}  // namespace
}  // namespace polystrate
