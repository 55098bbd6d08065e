#include "rpc/coordinator/status_json.h"

#include <gtest/gtest.h>

#include <limits>

#include "engine/json.h"

namespace polystrate {
namespace {

const absl::Time kNow = absl::FromUnixMillis(1763742000250);

CoordinatorStatus SomeCoordinator() {
  CoordinatorStatus status;
  status.version = "1.2";
  status.started = kNow - absl::Milliseconds(1500);
  status.streams = 5;
  status.waiting = 1;
  status.requests = 70;
  status.failed = 4;
  status.carried = 3;
  status.quarantined = 2;
  status.tokens = 12345;
  return status;
}

// Two stages of two ranks, layers 0 to 5 and 6 to 8, as seen by an engine that tells all.
EnginePool::View SomeEngine() {
  EnginePool::View view;
  view.status.set_target("host-a:50051");
  view.status.set_model("demo");
  view.status.set_serving(true);
  view.status.set_streams(4);
  view.status.set_outstanding_tokens(900);
  view.status.set_running_requests(6);
  view.status.set_queued_requests(7);
  view.status.set_used_kv_blocks(80);
  view.status.set_total_kv_blocks(100);
  view.status.set_times_lost(1);
  view.server.set_engine_version("1.1");
  view.server.mutable_parallelism()->set_tensor_parallel_size(2);
  view.server.mutable_parallelism()->set_pipeline_parallel_size(2);
  view.server.mutable_capacity()->set_kv_block_size(16);
  view.model.set_max_context_length(2048);
  view.load.set_instance_id("cafe");
  view.load.set_timestamp_unix_nanos(1763742000'125000000);
  auto& attributes = *view.load.mutable_attributes()->mutable_fields();
  attributes["prompt_tokens"].set_number_value(1000);
  attributes["cached_prompt_tokens"].set_number_value(400);
  attributes["generation_tokens"].set_number_value(5e9);
  const std::vector<std::vector<uint32_t>> kv_source = {{0, 0, 2, 2, 0, 2}, {6, 7, 7}};
  for (uint32_t stage = 0; stage < 2; ++stage) {
    v1::StageLayout& layout = *view.stages.add_stages();
    layout.set_pp_rank(stage);
    layout.set_first_layer(6 * stage);
    layout.set_end_layer(6 + 3 * stage);
    layout.mutable_kv_source()->Add(kv_source[stage].begin(), kv_source[stage].end());
    layout.set_kv_bytes_per_token(512 + stage);
  }
  for (uint32_t i = 0; i < 4; ++i) {
    v1::RankActivity& rank = *view.stages.add_ranks();
    rank.set_rank(i);
    rank.set_tp_rank(i % 2);
    rank.set_pp_rank(i / 2);
    rank.set_host("host-a");
    rank.set_pid(100 + i);
    rank.set_busy_seconds(0.5 + i);
    rank.set_waiting_seconds(0.25);
    rank.set_bubble_share(0.125);
    rank.set_steps(40);
    rank.set_doing("step 40");
  }
  return view;
}

std::string Parsed(const std::vector<EnginePool::View>& engines) {
  const std::string text = StatusJson(SomeCoordinator(), engines, kNow);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const absl::StatusOr<Json> json = Json::Parse(text, "status");
  EXPECT_TRUE(json.ok()) << json.status() << "\n" << text;
  return text;
}

void ExpectHas(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
}

TEST(StatusJsonTest, ACoordinatorWithoutEngines) {
  EXPECT_EQ(Parsed({}),
            R"({"coordinator":{"version":"1.2","time":1763742000.25,"uptime_seconds":1.5,)"
            R"("streams":5,"waiting":1,"requests":70,"failed":4,"carried":3,"quarantined":2,)"
            R"("tokens":12345},)"
            R"("engines":[]})");
}

TEST(StatusJsonTest, AnEngineWithAllThatItTells) {
  const std::string text = Parsed({SomeEngine()});
  ExpectHas(text,
            R"("engines":[{"target":"host-a:50051","model":"demo","version":"1.1","serving":true,)"
            R"("problem":"","times_lost":1,"streams":4,"outstanding_tokens":900,"running":6,)"
            R"("queued":7,"used_blocks":80,"total_blocks":100,"block_size":16,"max_context":2048,)"
            R"("tp":2,"pp":2,"instance":"cafe","time":1763742000.125,)"
            R"("tokens":{"prompt":1000,"cached_prompt":400,"generation":5e+09},"stages":[{)");
  ExpectHas(text,
            R"({"stage":0,"first_layer":0,"end_layer":6,"kv_bytes_per_token":512,"kv_groups":[)"
            R"({"owner":0,"readers":[1,4]},{"owner":2,"readers":[3,5]}],"ranks":[{)");
  ExpectHas(text,
            R"({"stage":1,"first_layer":6,"end_layer":9,"kv_bytes_per_token":513,"kv_groups":[)"
            R"({"owner":6,"readers":[]},{"owner":7,"readers":[8]}],"ranks":[{"rank":2,)"
            R"("tp_rank":0,"host":"host-a","pid":102,"busy_seconds":2.5,"waiting_seconds":0.25,)"
            R"("bubble_share":0.125,"steps":40,"doing":"step 40"},{"rank":3,)");
}

TEST(StatusJsonTest, AnEngineThatNeverAnswered) {
  EnginePool::View view;
  view.status.set_target("10.0.0.7:50051");
  view.status.set_problem("connection refused");
  const std::string text = Parsed({SomeEngine(), view});
  ExpectHas(text, R"({"target":"10.0.0.7:50051","model":"","version":"","serving":false,)"
                  R"("problem":"connection refused",)");
  ExpectHas(text, R"("time":null,"tokens":{"prompt":null,"cached_prompt":null,"generation":null},)"
                  R"("stages":[]}]})");
}

// An engine may be any program: what it says of itself neither breaks the text nor stops us.
TEST(StatusJsonTest, WhatMakesNoSenseStillMakesJson) {
  EnginePool::View view = SomeEngine();
  view.status.set_model("</script>\"\n\x01 \xF0\x9F\x90\x99");
  view.stages.mutable_ranks(0)->set_host("\xFF");  // a proto string in name only
  view.stages.mutable_ranks(1)->set_busy_seconds(std::numeric_limits<double>::quiet_NaN());
  view.stages.mutable_ranks(2)->set_pp_rank(4'000'000'000u);  // no such stage
  v1::StageLayout& layout = *view.stages.mutable_stages(0);
  layout.set_first_layer(4'294'967'295u);  // the next layer has no number
  layout.set_kv_source(1, 77);             // nor has this owner a place here
  (*view.load.mutable_attributes()->mutable_fields())["prompt_tokens"].set_string_value("many");
  const std::string text = Parsed({view});
  ExpectHas(text, R"("prompt":null)");
  ExpectHas(text, R"({"owner":77,"readers":[0]})");
  ExpectHas(text, R"({"stage":4000000000,"ranks":[{"rank":2,)");
}

}  // namespace
}  // namespace polystrate
