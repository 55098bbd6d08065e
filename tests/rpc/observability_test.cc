// What an operator sees of requests that came over a socket: metrics over another one, log lines,
// load and trace context.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "engine/json.h"
#include "rpc/metrics_server.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/exposition.h"

namespace polystrate {
namespace {

constexpr char kTraceparent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

class Observability : public ::testing::Test {
 protected:
  Observability() {
    served_.Run();
    metrics_ = *MetricsServer::Start(
        "127.0.0.1:0", [this] { return TakeMetrics(served_.engine(), served_.log()); });
  }

  Exposition Metrics() const { return *ParseExposition(*Scrape(metrics_->port())); }

  // The log's lines by request_id, when there are `count` of them.
  std::map<std::string, Json> Lines(size_t count) {
    std::map<std::string, Json> lines;
    for (int i = 0; i < 1000 && served_.log().num_written() < static_cast<int64_t>(count); ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    const std::vector<std::string> texts =
        absl::StrSplit(ReadFile(served_.log_path()), '\n', absl::SkipEmpty());
    EXPECT_EQ(texts.size(), count);
    for (const std::string& text : texts) {
      Json line = *Json::Parse(text, "a line");
      const std::string id = *line.root().GetString("request_id");
      EXPECT_TRUE(lines.emplace(id, std::move(line)).second) << id;
    }
    return lines;
  }

  ServedEngine served_;
  std::unique_ptr<MetricsServer> metrics_;
};

pb::GenerateRequest Named(const std::string& id, uint32_t max_tokens) {
  pb::GenerateRequest request = GreedyRequest(max_tokens);
  request.set_request_id(id);
  return request;
}

TEST_F(Observability, MetricsCountWhatClientsGot) {
  const absl::Time begin = absl::Now();
  double completion_tokens = 0;
  for (uint32_t max_tokens : {1u, 2u, 7u}) {
    const Answer answer = Ask(served_.inference(), GreedyRequest(max_tokens));
    ASSERT_TRUE(answer.status.ok());
    completion_tokens += answer.last().usage().completion_tokens();
  }
  pb::GenerateRequest stopping = GreedyRequest(50);
  const Answer free = Ask(served_.inference(), stopping);
  stopping.mutable_stopping()->add_conditions()->set_stop_token_id(free.ids[3]);
  const Answer stopped = Ask(served_.inference(), stopping);
  completion_tokens += static_cast<double>(free.ids.size() + stopped.ids.size());
  EXPECT_FALSE(Ask(served_.inference(), GreedyRequest(0)).status.ok());
  pb::GenerateRequest elsewhere = GreedyRequest(1);
  elsewhere.set_model("other");
  EXPECT_FALSE(Ask(served_.inference(), elsewhere).status.ok());
  const double elapsed = absl::ToDoubleSeconds(absl::Now() - begin);

  const Exposition page = Metrics();
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "length"}}), 4);
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "stop"}}), 1);
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "abort"}}), 0);
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "error"}}), 0);
  EXPECT_EQ(page.Value("vllm:prompt_tokens_total"), 5 * 3);
  EXPECT_EQ(page.Value("vllm:generation_tokens_total"), completion_tokens);
  EXPECT_EQ(page.Value("vllm:time_to_first_token_seconds_count"), 5);
  EXPECT_EQ(page.Value("vllm:inter_token_latency_seconds_count"), completion_tokens - 5);
  EXPECT_EQ(page.Value("vllm:request_time_per_output_token_seconds_count"), 4);
  EXPECT_EQ(page.Value("vllm:e2e_request_latency_seconds_count"), 5);
  EXPECT_GT(page.Value("vllm:e2e_request_latency_seconds_sum"), 0);
  EXPECT_LE(page.Value("vllm:e2e_request_latency_seconds_sum"), elapsed);
  EXPECT_EQ(page.Value("vllm:request_generation_tokens_sum"), completion_tokens);
  EXPECT_EQ(page.Value("polystrate:requests_refused_total", {{"code", "INVALID_ARGUMENT"}}), 1);
  EXPECT_EQ(page.Value("polystrate:requests_refused_total", {{"code", "NOT_FOUND"}}), 1);
  EXPECT_EQ(page.Value("vllm:num_requests_running"), 0);
  EXPECT_EQ(page.Value("vllm:kv_cache_usage_perc"), 0);
  EXPECT_EQ(page.Value("polystrate:engine_state", {{"state", "ready"}}), 1);
}

TEST_F(Observability, GaugesFollowWhatRuns) {
  grpc::ClientContext context;
  const auto stream = served_.inference().Generate(&context, GreedyRequest(20000));
  pb::GenerateResponse event;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(stream->Read(&event));
  Exposition page = Metrics();
  EXPECT_EQ(page.Value("vllm:num_requests_running"), 1);
  EXPECT_EQ(page.Value("vllm:num_requests_waiting"), 0);
  EXPECT_GT(page.Value("vllm:kv_cache_usage_perc"), 0);
  EXPECT_LE(page.Value("vllm:kv_cache_usage_perc"), 1);
  EXPECT_GT(page.Value("polystrate:running_tokens"), 3);

  grpc::ClientContext load_context;
  pb::GetLoadRequest request;
  request.set_include_per_rank(true);
  pb::LoadInfo load;
  ASSERT_TRUE(served_.control().GetLoad(&load_context, request, &load).ok());
  EXPECT_EQ(load.decode_batch_size(), 1u);
  EXPECT_EQ(load.prefill_batch_size(), 0u);
  EXPECT_EQ(load.ranks(0).decode_batch_size(), 1u);
  EXPECT_TRUE(load.ranks(0).has_prefill_batch_size());

  served_.engine().BeginDrain(absl::InfiniteDuration());
  page = Metrics();
  EXPECT_EQ(page.Value("polystrate:engine_state", {{"state", "draining"}}), 1);
  EXPECT_EQ(page.Value("polystrate:engine_state", {{"state", "ready"}}), 0);
  context.TryCancel();
  served_.Stop(absl::InfiniteDuration());
  page = Metrics();
  EXPECT_EQ(page.Value("vllm:num_requests_running"), 0);
  EXPECT_EQ(page.Value("vllm:request_success_total", {{"finished_reason", "abort"}}), 1);
  EXPECT_EQ(page.Value("polystrate:engine_state", {{"state", "stopped"}}), 1);
}

TEST_F(Observability, EveryRequestLeavesOneLine) {
  pb::GenerateRequest request = Named("whole", 5);
  request.set_model("tiny");
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kTraceparent);
  context.AddMetadata("tracestate", "vendor=1");
  const auto stream = served_.inference().Generate(&context, request);
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  ASSERT_TRUE(answer.status.ok());
  const auto& metadata = context.GetServerInitialMetadata();
  ASSERT_EQ(metadata.count("traceparent"), 1u);
  EXPECT_EQ(metadata.find("traceparent")->second, kTraceparent);
  EXPECT_EQ(metadata.find("tracestate")->second, "vendor=1");

  EXPECT_FALSE(Ask(served_.inference(), Named("refused", 0)).status.ok());
  grpc::ClientContext gone;
  pb::GenerateResponse event;
  ASSERT_TRUE(served_.inference().Generate(&gone, Named("gone", 20000))->Read(&event));
  gone.TryCancel();

  const auto lines = Lines(3);
  const JsonView whole = lines.at("whole").root();
  absl::Time time;
  EXPECT_TRUE(absl::ParseTime(absl::RFC3339_full, *whole.GetString("time"), &time, nullptr));
  EXPECT_LT(absl::AbsDuration(absl::Now() - time), absl::Minutes(1));
  EXPECT_TRUE(absl::StartsWith(*whole.GetString("peer"), "ipv4:127.0.0.1:"));
  EXPECT_EQ(*whole.GetString("model"), "tiny");
  EXPECT_EQ(*whole.GetString("status"), "OK");
  EXPECT_EQ(*whole.GetString("finish_reason"), "length");
  EXPECT_EQ(*whole.GetString("traceparent"), kTraceparent);
  EXPECT_EQ(*whole.GetInt("prompt_tokens"), 3);
  EXPECT_EQ(*whole.GetInt("cached_tokens"), 0);
  EXPECT_EQ(*whole.GetInt("completion_tokens"), 5);
  EXPECT_EQ(*whole.GetInt("priority"), 0);
  EXPECT_LE(*whole.GetDouble("queue_seconds"), *whole.GetDouble("ttft_seconds"));
  EXPECT_LE(*whole.GetDouble("ttft_seconds"), *whole.GetDouble("e2e_seconds"));
  EXPECT_GT(*whole.GetDouble("e2e_seconds"), 0);

  const JsonView refused = lines.at("refused").root();
  EXPECT_EQ(*refused.GetString("status"), "INVALID_ARGUMENT");
  EXPECT_FALSE(refused.Find("finish_reason").has_value());
  EXPECT_FALSE(refused.Find("ttft_seconds").has_value());
  EXPECT_FALSE(refused.Find("traceparent").has_value());
  EXPECT_EQ(*lines.at("gone").root().GetString("status"), "CANCELLED");
  EXPECT_EQ(*lines.at("gone").root().GetString("finish_reason"), "abort");
}

TEST_F(Observability, AMalformedTraceIsDroppedAndTheRequestServed) {
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-nonsense");
  context.AddMetadata("tracestate", "vendor=1");
  const auto stream = served_.inference().Generate(&context, GreedyRequest(2));
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(context.GetServerInitialMetadata().count("traceparent"), 0u);
  EXPECT_EQ(context.GetServerInitialMetadata().count("tracestate"), 0u);
}

TEST_F(Observability, NoLineHoldsAPrompt) {
  pb::GenerateRequest request = Named("text", 3);
  request.set_prompt("a secret between us");
  ASSERT_TRUE(Ask(served_.inference(), request).status.ok());
  request.set_request_id("bad");
  request.mutable_stopping()->add_conditions()->set_stop_text("secret");
  request.mutable_sampling()->set_temperature(-1);
  EXPECT_FALSE(Ask(served_.inference(), request).status.ok());
  Lines(2);
  EXPECT_FALSE(absl::StrContains(ReadFile(served_.log_path()), "secret"));
}

}  // namespace
}  // namespace polystrate
