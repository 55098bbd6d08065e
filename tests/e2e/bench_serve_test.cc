// `polystrate bench serve` as a user runs it, against an engine of two ranks with the demo model.

#include <gtest/gtest.h>

#include <csignal>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr absl::Duration kStartTimeout = absl::Seconds(60);
constexpr absl::Duration kTimeout = absl::Seconds(100);  // a busy machine; seconds on an idle one

class BenchServe : public testing::Test {
 protected:
  BenchServe()
      : target_(absl::StrCat("127.0.0.1:", FreePort())),
        engine_(Mpirun(2, Polystrate({"serve", "--model", SourceFile("models/demo"), "--pp", "2",
                                      "--listen", target_, "--kv_memory", "67108864"}))) {}

  CommandLine Command(const CommandLine& flags) const {
    CommandLine command = {"bench", "serve",         "--target",
                           target_, "--save_result", dir_.File("result.json")};
    command.insert(command.end(), flags.begin(), flags.end());
    return Polystrate(command);
  }

  // A load of which every request completes; checks what holds for each.
  void Measure(int64_t num_prompts, const CommandLine& flags) {
    result_ = RunCommand(Command(flags), kTimeout);
    ASSERT_EQ(result_.exit_code, 0) << result_.err;
    ReadResult();
    EXPECT_TRUE(absl::StrContains(
        result_.out, absl::StrFormat("Successful requests:                     %-10d\n"
                                     "Failed requests:                         0         \n",
                                     num_prompts)))
        << result_.out;
    EXPECT_EQ(Number("completed"), num_prompts);
    EXPECT_EQ(Number("failed"), 0);
    for (const char* list : {"input_lens", "output_lens", "ttfts", "itls", "start_times",
                             "generated_texts", "errors"}) {
      EXPECT_EQ(json_->root().GetArray(list)->size(), num_prompts) << list;
    }
    EXPECT_EQ(Sum(Numbers("input_lens")), Number("total_input_tokens"));
    EXPECT_EQ(Sum(Numbers("output_lens")), Number("total_output_tokens"));
    EXPECT_NEAR(Number("request_throughput") * Number("duration"), Number("completed"), 1e-6);
    EXPECT_NEAR(Number("output_throughput") * Number("duration"), Number("total_output_tokens"),
                1e-6);
    CheckTimes();
  }

  void CheckTimes() {
    const std::vector<double> ttfts = Numbers("ttfts");
    const std::vector<double> starts = Numbers("start_times");
    const auto lengths = Numbers("output_lens");
    double e2els = 0;
    for (size_t i = 0; i < ttfts.size(); ++i) {
      double e2el = ttfts[i];
      const JsonView itls = json_->root().GetArray("itls")->at(static_cast<int64_t>(i));
      EXPECT_LT(itls.size(), lengths[i]);
      for (const JsonView& itl : itls.Elements()) e2el += *itl.AsDouble("itl");
      EXPECT_GT(ttfts[i], 0.0);
      EXPECT_LE(starts[i] + e2el, Number("duration") + 1e-6);
      e2els += e2el;
    }
    const auto n = static_cast<double>(ttfts.size());
    EXPECT_NEAR(Number("mean_ttft_ms"), 1e3 * Sum(ttfts) / n, 1e-6);
    EXPECT_NEAR(Number("mean_e2el_ms"), 1e3 * e2els / n, 1e-6);
    EXPECT_LE(Number("median_ttft_ms"), Number("p99_ttft_ms"));
    EXPECT_LE(Number("max_concurrent_requests"), n);
  }

  void ReadResult() {
    auto json = Json::Parse(ReadFile(dir_.File("result.json")), "result.json");
    ASSERT_TRUE(json.ok()) << json.status();
    json_.emplace(*std::move(json));
  }
  double Number(const std::string& key) const { return *json_->root().GetDouble(key); }
  std::vector<double> Numbers(const std::string& key) const {
    std::vector<double> numbers;
    for (const JsonView& element : json_->root().GetArray(key)->Elements()) {
      numbers.push_back(*element.AsDouble(key));
    }
    return numbers;
  }
  static double Sum(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
  }

  const std::string target_;
  TempDir dir_;
  Process engine_;
  CommandResult result_;
  std::optional<Json> json_;
};

// Starts before the engine serves, and waits for it.
TEST_F(BenchServe, AClosedLoopMeasuresEveryRequest) {
  Measure(24, {"--num_prompts", "24", "--max_concurrency", "4", "--random_input_len", "20",
               "--random_output_len", "12", "--random_range_ratio", "0.5", "--ignore_eos",
               "--goodput", "ttft:60000", "e2el:60000", "--metric_percentiles", "50,99"});
  for (const double length : Numbers("input_lens")) EXPECT_TRUE(length >= 10 && length <= 30);
  for (const double length : Numbers("output_lens")) EXPECT_TRUE(length >= 6 && length <= 18);
  EXPECT_EQ(Number("request_goodput"), Number("request_throughput"));
  EXPECT_EQ(Number("p50_itl_ms"), Number("median_itl_ms"));
  EXPECT_TRUE(absl::StrContains(result_.out, "Maximum request concurrency:             4 "));
  const std::vector<double> bubbles = Numbers("stage_bubbles");
  EXPECT_EQ(bubbles.size(), 2u);
  for (const double bubble : bubbles) EXPECT_TRUE(bubble >= 0.0 && bubble < 1.0) << bubble;
}

TEST_F(BenchServe, AnOpenLoopSendsAtItsTimes) {
  WriteFile(dir_.File("prompts.jsonl"),
            "{\"prompt\": \"ROMEO:\", \"max_tokens\": 5}\n{\"token_ids\": [5, 6, 7]}\n");
  Measure(16, {"--num_prompts", "16", "--request_rate", "20", "--dataset_path",
               dir_.File("prompts.jsonl"), "--custom_output_len", "9", "--ignore_eos"});
  const std::vector<double> starts = Numbers("start_times");
  for (size_t i = 1; i < starts.size(); ++i) EXPECT_GE(starts[i], starts[i - 1]);
  EXPECT_GE(starts.back(), 16 / 20.0);
  const std::vector<double> lengths = Numbers("output_lens");
  for (size_t i = 0; i < lengths.size(); ++i) EXPECT_EQ(lengths[i], i % 2 == 0 ? 5 : 9);
  EXPECT_EQ(Numbers("input_lens")[1], 3.0);
  EXPECT_TRUE(absl::StrContains(result_.out, "Request rate configured (RPS):           20.00"));
}

// One at a time, so that every prompt but the first with its prefix finds all of its blocks.
TEST_F(BenchServe, SharedPrefixesComeFromTheCache) {
  Measure(12, {"--num_prompts", "12", "--num_warmups", "0", "--max_concurrency", "1",
               "--dataset_name", "prefix_repetition", "--prefix_repetition_num_prefixes", "2",
               "--prefix_repetition_prefix_len", "64", "--prefix_repetition_suffix_len", "8",
               "--prefix_repetition_output_len", "4", "--ignore_eos"});
  EXPECT_EQ(Number("total_input_tokens"), 12 * 72);
  EXPECT_EQ(Number("cached_prompt_tokens"), 10 * 64);
  EXPECT_NEAR(Number("prefix_cache_hit_share"), 640.0 / 864.0, 1e-9);
  EXPECT_TRUE(absl::StrContains(result_.out, "Prompt tokens from the prefix cache (%): 74.07"));
}

TEST_F(BenchServe, FailuresAreCountedWithTheirReasons) {
  WriteFile(dir_.File("prompts.jsonl"), "{\"token_ids\": [5, 6]}\n{\"token_ids\": [100000]}\n");
  result_ = RunCommand(Command({"--num_prompts", "6", "--num_warmups", "0", "--dataset_path",
                                dir_.File("prompts.jsonl")}),
                       kTimeout);
  EXPECT_EQ(result_.exit_code, 0) << result_.err;
  EXPECT_TRUE(absl::StrContains(result_.err, "warning: 3 failed: ")) << result_.err;
  ReadResult();
  EXPECT_EQ(Number("completed"), 3);
  EXPECT_EQ(Number("failed"), 3);
  for (int64_t i = 0; i < 6; ++i) {
    const std::string error(*json_->root().GetArray("errors")->at(i).AsString("error"));
    EXPECT_EQ(error.empty(), i % 2 == 0) << error;
    EXPECT_EQ(Numbers("output_lens")[static_cast<size_t>(i)] == 0, i % 2 == 1);
  }

  result_ = RunCommand(Command({"--random_input_len", "2000"}), kTimeout);
  EXPECT_EQ(result_.exit_code, 2);
  EXPECT_TRUE(absl::StrContains(result_.err, "demo has 2048")) << result_.err;
  result_ = RunCommand(Command({"--model", "other"}), kTimeout);
  EXPECT_EQ(result_.exit_code, 2);
  EXPECT_TRUE(absl::StrContains(result_.err, "other")) << result_.err;
}

TEST_F(BenchServe, AnInterruptPrintsWhatThereIs) {
  ASSERT_TRUE(engine_.WaitForOutput("SERVING", kStartTimeout)) << engine_.Err();
  Process bench(Command({"--request_rate", "10", "--random_input_len", "5", "--random_output_len",
                         "5", "--ignore_eos"}));
  ASSERT_TRUE(bench.WaitForOutput("requests: ", kTimeout)) << bench.Err();
  bench.Signal(SIGINT);
  EXPECT_EQ(bench.Wait(kTimeout), 1) << bench.Err();
  EXPECT_TRUE(absl::StrContains(bench.Err(), " of 1000 requests")) << bench.Err();
  EXPECT_TRUE(absl::StrContains(bench.Out(), "Mean TTFT (ms):")) << bench.Out();
  ReadResult();
  EXPECT_GT(Number("completed"), 0);
  EXPECT_EQ(Number("completed") + Number("failed"), json_->root().GetArray("errors")->size());
  EXPECT_TRUE(*json_->root().GetBool("interrupted"));
}

TEST(BenchServeFlags, MistakesEndBeforeAnythingIsSent) {
  struct Case {
    int exit_code;
    const char* message;
    CommandLine flags;
  };
  const Case cases[] = {
      {1, "127.0.0.1:1 is not serving after", {"--ready_timeout", "0.3"}},
      {2, "--request_rate is 0", {"--request_rate", "0"}},
      {2, "--burstiness is -1", {"--burstiness", "-1"}},
      {2, "--max_concurrency is 0", {"--max_concurrency", "0"}},
      {2, "--num_prompts is 0", {"--num_prompts", "0"}},
      {2, "--goodput: \"itl:5\"", {"--goodput", "ttft:5", "itl:5"}},
      {2, "--metric_percentiles", {"--metric_percentiles", "50,200"}},
      {2, "--dataset_path", {"--dataset_name", "custom"}},
      {2, "/nowhere/x.json", {"--save_result", "/nowhere/x.json"}},
      {2, "--target", {"--target", "localhost"}},
      {2, "did you mean --max_concurrency", {"--max_concurency", "3"}},
  };
  for (const Case& test : cases) {
    CommandLine command = {"bench", "serve", "--target", "127.0.0.1:1"};
    command.insert(command.end(), test.flags.begin(), test.flags.end());
    const CommandResult result = RunCommand(Polystrate(command), kTimeout);
    EXPECT_EQ(result.exit_code, test.exit_code) << test.message;
    EXPECT_EQ(result.out, "") << test.message;
    EXPECT_TRUE(absl::StrContains(result.err, test.message)) << result.err;
  }
}

}  // namespace
}  // namespace polystrate
