#include "launcher/load_report.h"

#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "engine/json.h"

namespace polystrate {
namespace {

LoadReport SomeReport() {
  LoadReport report;
  report.setting = {.target = "host:1",
                    .model_id = "demo",
                    .num_prompts = 3,
                    .request_rate = 2.5,
                    .burstiness = 1.0,
                    .max_concurrency = 16,
                    .percents = {50.0, 99.9},
                    .input_lens = {10, 7}};
  LoadOutcome good{.index = 0, .start_ns = 1'500'000'000, .end_ns = 3'000'000'000};
  good.arrivals = {{2'000'000'000, 1}, {2'250'000'000, 2}};
  good.text = "so be it";
  good.prompt_tokens = 10;
  good.completion_tokens = 3;
  LoadOutcome bad{.index = 1, .start_ns = 2'000'000'000, .end_ns = 2'000'000'000};
  bad.status = absl::ResourceExhaustedError("full");
  report.run.begin_ns = 1'000'000'000;
  report.run.end_ns = 3'000'000'000;
  report.run.max_send_delay_ns = 250'000;
  report.run.outcomes = {good, bad};
  LoadMetrics& metrics = report.metrics;
  metrics.duration = 2.0;
  metrics.completed = 1;
  metrics.failed = 1;
  metrics.total_input_tokens = 10;
  metrics.total_output_tokens = 1234567;
  metrics.cached_prompt_tokens = 4;
  metrics.request_throughput = 0.5;
  metrics.request_goodput = 0.25;
  metrics.output_throughput = 617283.5;
  metrics.total_token_throughput = 6.005;
  metrics.max_output_tokens_per_s = 3.0;
  metrics.max_concurrent_requests = 1;
  metrics.ttft_ms = {1.0, 2.0, 3.0, {4.0, 5.125}};
  metrics.tpot_ms = {11.0, 12.0, 13.0, {14.0, 15.0}};
  metrics.itl_ms = {21.0, 22.0, 23.0, {24.0, 25.0}};
  metrics.e2el_ms = {31.0, 32.0, 33.0, {34.0, 123456.789}};
  report.bubbles = {0.125, 0.5};
  return report;
}

// Every label, fill and width as `vllm bench serve` prints them, up to the part on the engine.
TEST(LoadReportTest, TheTableIsVllmsLabelByLabel) {
  EXPECT_EQ(SomeReport().Table(),
            "============ Serving Benchmark Result ============\n"
            "Successful requests:                     1         \n"
            "Failed requests:                         1         \n"
            "Maximum request concurrency:             16        \n"
            "Request rate configured (RPS):           2.50      \n"
            "Benchmark duration (s):                  2.00      \n"
            "Total input tokens:                      10        \n"
            "Total generated tokens:                  1234567   \n"
            "Request throughput (req/s):              0.50      \n"
            "Request goodput (req/s):                 0.25      \n"
            "Output token throughput (tok/s):         617283.50 \n"
            "Peak output token throughput (tok/s):    3.00      \n"
            "Peak concurrent requests:                1.00      \n"
            "Total token throughput (tok/s):          6.00      \n"
            "---------------Time to First Token----------------\n"
            "Mean TTFT (ms):                          1.00      \n"
            "Median TTFT (ms):                        2.00      \n"
            "P50 TTFT (ms):                           4.00      \n"
            "P99.9 TTFT (ms):                         5.12      \n"
            "-----Time per Output Token (excl. 1st token)------\n"
            "Mean TPOT (ms):                          11.00     \n"
            "Median TPOT (ms):                        12.00     \n"
            "P50 TPOT (ms):                           14.00     \n"
            "P99.9 TPOT (ms):                         15.00     \n"
            "---------------Inter-token Latency----------------\n"
            "Mean ITL (ms):                           21.00     \n"
            "Median ITL (ms):                         22.00     \n"
            "P50 ITL (ms):                            24.00     \n"
            "P99.9 ITL (ms):                          25.00     \n"
            "----------------End-to-end Latency----------------\n"
            "Mean E2EL (ms):                          31.00     \n"
            "Median E2EL (ms):                        32.00     \n"
            "P50 E2EL (ms):                           34.00     \n"
            "P99.9 E2EL (ms):                         123456.79 \n"
            "----------------------Engine----------------------\n"
            "Prompt tokens from the prefix cache (%): 40.00     \n"
            "Bubble of stage 0 (%):                   12.50     \n"
            "Bubble of stage 1 (%):                   50.00     \n"
            "==================================================\n");
}

TEST(LoadReportTest, WhatWasNotAskedForHasNoLine) {
  LoadReport report = SomeReport();
  report.setting.request_rate = std::numeric_limits<double>::infinity();
  report.setting.max_concurrency.reset();
  report.metrics.request_goodput.reset();
  report.bubbles.clear();
  const std::string table = report.Table();
  for (const char* absent : {"Maximum request", "configured", "goodput", "Bubble"}) {
    EXPECT_EQ(table.find(absent), std::string::npos) << absent;
  }
  const Json json = *Json::Parse(report.JsonText(), "report");
  EXPECT_EQ(*json.root().GetString("request_rate"), "inf");
  for (const char* null : {"max_concurrency", "request_goodput"}) {
    ASSERT_TRUE(json.root().Find(null).has_value()) << null;
    EXPECT_TRUE(json.root().Find(null)->IsNull()) << null;
  }
  EXPECT_EQ(json.root().GetArray("stage_bubbles")->size(), 0);
}

TEST(LoadReportTest, TheJsonHasVllmsKeys) {
  LoadReport report = SomeReport();
  report.setting.percents = {99.0};
  const Json json = *Json::Parse(report.JsonText(), "report");
  const std::vector<std::string> keys = json.root().Keys();
  std::set<std::string> left(keys.begin(), keys.end());
  for (const char* key :
       {"duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
        "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
        "input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors",
        "max_output_tokens_per_s", "max_concurrent_requests"}) {
    EXPECT_EQ(left.erase(key), 1u) << key;
  }
  for (const char* what : {"mean", "median", "std", "p99"}) {
    for (const char* of : {"ttft", "tpot", "itl", "e2el"}) {
      const std::string key = std::string(what) + "_" + of + "_ms";
      EXPECT_EQ(left.erase(key), 1u) << key;
    }
  }
  EXPECT_EQ(left, (std::set<std::string>{"date", "backend", "target", "model_id", "num_prompts",
                                         "request_rate", "burstiness", "max_concurrency",
                                         "cached_prompt_tokens", "prefix_cache_hit_share",
                                         "max_send_delay_ms", "interrupted", "stage_bubbles"}));
}

TEST(LoadReportTest, TheJsonHasEveryRequest) {
  const std::string text = SomeReport().JsonText();
  for (const char* part :
       {R"("input_lens":[10,7],"output_lens":[3,0],"ttfts":[0.5,0],"itls":[[0.25],[]],)",
        R"("start_times":[0.5,1],"generated_texts":["so be it",""],)",
        R"("errors":["","RESOURCE_EXHAUSTED: full"],)", R"("request_rate":2.5,)",
        R"("p50_ttft_ms":4,"p99.9_ttft_ms":5.125,)", R"("std_e2el_ms":33,)",
        R"("prefix_cache_hit_share":0.4,"max_send_delay_ms":0.25,"interrupted":false,)",
        R"("stage_bubbles":[0.125,0.5]})"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
}

}  // namespace
}  // namespace polystrate
