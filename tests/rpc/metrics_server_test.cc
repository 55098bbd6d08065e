#include "rpc/metrics_server.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/exposition.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

TEST(MetricsServer, ServesWhatDashboardsAskFor) {
  MetricsSnapshot snapshot;
  snapshot.model_name = "a \"model\"\\\n";
  snapshot.load = {.running_requests = 3,
                   .queued_requests = 5,
                   .used_blocks = 25,
                   .total_blocks = 100,
                   .running_tokens = 7,
                   .waiting_tokens = 9};
  snapshot.load.cached_blocks = 15;
  snapshot.max_queued_requests = 1024;
  snapshot.max_queued_tokens = std::numeric_limits<int64_t>::max();
  snapshot.stats.prompt_tokens = 1'000'000'007;
  snapshot.stats.requests = {1, 2, 3, 4};
  snapshot.stats.inter_token_latency.Observe(0.02, 5);
  snapshot.refused[8] = 6;
  const auto server = MetricsServer::Start("127.0.0.1:0", [&] { return snapshot; });
  ASSERT_TRUE(server.ok()) << server.status();
  const auto text = Scrape((*server)->port());
  ASSERT_TRUE(text.ok()) << text.status();
  const auto page = ParseExposition(*text);
  ASSERT_TRUE(page.ok()) << page.status();

  EXPECT_EQ(page->Value("vllm:num_requests_running"), 3);
  EXPECT_EQ(page->Value("vllm:num_requests_waiting"), 5);
  EXPECT_EQ(page->Value("vllm:kv_cache_usage_perc"), 0.25);
  EXPECT_EQ(page->Value("polystrate:kv_blocks", {{"state", "used"}}), 25);
  EXPECT_EQ(page->Value("polystrate:kv_blocks", {{"state", "cached"}}), 15);
  EXPECT_EQ(page->Value("polystrate:kv_blocks", {{"state", "free"}}), 60);
  EXPECT_EQ(page->Value("polystrate:max_queued_requests"), 1024);
  EXPECT_EQ(page->Value("polystrate:max_queued_tokens"), INFINITY);
  EXPECT_EQ(page->Value("vllm:prompt_tokens_total"), 1'000'000'007);
  EXPECT_EQ(page->Value("vllm:request_success_total", {{"finished_reason", "stop"}}), 1);
  EXPECT_EQ(page->Value("vllm:request_success_total", {{"finished_reason", "error"}}), 4);
  EXPECT_EQ(page->Value("vllm:inter_token_latency_seconds_bucket", {{"le", "0.01"}}), 0);
  EXPECT_EQ(page->Value("vllm:inter_token_latency_seconds_bucket", {{"le", "0.025"}}), 5);
  EXPECT_NEAR(page->Value("vllm:inter_token_latency_seconds_sum"), 0.1, 1e-12);
  EXPECT_EQ(page->Value("polystrate:requests_refused_total", {{"code", "RESOURCE_EXHAUSTED"}}), 6);
  for (const auto& [name, family] : page->families) {
    for (const auto& [sample, values] : family.samples) {
      if (sample.find(':') == std::string::npos) continue;  // the library's own
      for (const auto& [labels, value] : values) {
        ASSERT_TRUE(labels.contains("model_name")) << sample;
        EXPECT_EQ(labels.at("model_name"), snapshot.model_name) << sample;
      }
    }
  }
}

TEST(MetricsServer, TellsHowBusyEachStageIs) {
  MetricsSnapshot snapshot;
  for (int rank = 0; rank < 4; ++rank) {
    RankStatus& status = snapshot.ranks.emplace_back();
    status.rank = rank;
    status.pp_rank = rank / 2;
    status.host = "a-host";
    status.report.busy_ns = int64_t{1'500'000'000} * (rank + 1);
    status.report.steps = 10;
    status.in_flight = absl::Seconds(6);
    status.silent = absl::Milliseconds(250);
  }
  const auto server = *MetricsServer::Start("127.0.0.1:0", [&] { return snapshot; });
  const auto page = ParseExposition(*Scrape(server->port()));
  ASSERT_TRUE(page.ok()) << page.status();
  const Exposition::Labels third = {{"rank", "2"}, {"stage", "1"}, {"host", "a-host"}};
  EXPECT_EQ(page->Value("polystrate:stage_busy_seconds_total", third), 4.5);
  EXPECT_EQ(page->Value("polystrate:stage_waiting_seconds_total", third), 1.5);
  EXPECT_EQ(page->Value("polystrate:stage_bubble_share", third), 0.25);
  EXPECT_EQ(page->Value("polystrate:stage_bubble_share", {{"rank", "3"}}), 0);
  EXPECT_EQ(page->Value("polystrate:stage_steps_total", {{"rank", "0"}}), 10);
  EXPECT_EQ(page->Value("polystrate:rank_silent_seconds", third), 0.25);
}

TEST(MetricsServer, NamesAndTypesAreThoseOfVllm) {
  const auto server = *MetricsServer::Start("127.0.0.1:0", [] { return MetricsSnapshot(); });
  const auto page = ParseExposition(*Scrape(server->port()));
  ASSERT_TRUE(page.ok()) << page.status();
  const std::pair<const char*, const char*> kExpected[] = {
      {"vllm:num_requests_running", "gauge"},
      {"vllm:num_requests_waiting", "gauge"},
      {"vllm:kv_cache_usage_perc", "gauge"},
      {"vllm:prefix_cache_queries_total", "counter"},
      {"vllm:prefix_cache_hits_total", "counter"},
      {"vllm:prompt_tokens_total", "counter"},
      {"vllm:generation_tokens_total", "counter"},
      {"vllm:num_preemptions_total", "counter"},
      {"vllm:request_success_total", "counter"},
      {"vllm:time_to_first_token_seconds", "histogram"},
      {"vllm:inter_token_latency_seconds", "histogram"},
      {"vllm:request_time_per_output_token_seconds", "histogram"},
      {"vllm:e2e_request_latency_seconds", "histogram"},
      {"vllm:request_queue_time_seconds", "histogram"},
      {"vllm:request_prefill_time_seconds", "histogram"},
      {"vllm:request_decode_time_seconds", "histogram"},
      {"vllm:request_inference_time_seconds", "histogram"},
      {"vllm:request_prompt_tokens", "histogram"},
      {"vllm:request_generation_tokens", "histogram"},
  };
  for (const auto& [name, type] : kExpected) {
    ASSERT_TRUE(page->families.contains(name)) << name;
    EXPECT_EQ(page->families.at(name).type, type) << name;
  }
  EXPECT_EQ(page->Value("vllm:kv_cache_usage_perc"), 0);  // not 0 / 0
}

TEST(MetricsServer, AnswersNothingElse) {
  const auto server = *MetricsServer::Start("127.0.0.1:0", [] { return MetricsSnapshot(); });
  for (const char* path : {"/", "/other", "/etc/passwd", "/../../../../etc/passwd"}) {
    EXPECT_TRUE(Fails(Scrape(server->port(), path).status(), absl::StatusCode::kNotFound, "HTTP"))
        << path;
  }
}

TEST(MetricsServer, SaysWhatIsWrongWithAnAddress) {
  const auto start = [](const std::string& address) {
    return MetricsServer::Start(address, [] { return MetricsSnapshot(); }).status();
  };
  EXPECT_TRUE(Fails(start("nonsense"), absl::StatusCode::kInvalidArgument, "HOST:PORT"));
  EXPECT_TRUE(Fails(start("192.0.2.1:0"), absl::StatusCode::kInvalidArgument, "192.0.2.1"));
  const auto server = *MetricsServer::Start("127.0.0.1:0", [] { return MetricsSnapshot(); });
  EXPECT_TRUE(Fails(start(absl::StrCat("127.0.0.1:", server->port())),
                    absl::StatusCode::kUnavailable, "in use"));
}

TEST(MetricsServer, ListensWhereItIsTold) {
  for (const char* host : {"localhost", "0.0.0.0"}) {
    const std::string address = absl::StrCat(host, ":", FreePort());
    const auto server = MetricsServer::Start(address, [] { return MetricsSnapshot(); });
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_TRUE(absl::EndsWith(address, absl::StrCat(":", (*server)->port())));
    EXPECT_TRUE(Scrape((*server)->port()).ok()) << address;
  }
  // Debian's civetweb is built without IPv6.
  const auto status = MetricsServer::Start("[::1]:0", [] { return MetricsSnapshot(); }).status();
  EXPECT_TRUE(Fails(status, absl::StatusCode::kInvalidArgument, "[::1]:0"));
}

}  // namespace
}  // namespace polystrate
