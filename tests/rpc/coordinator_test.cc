// A coordinator in front of real engines, over real sockets: what a client sees when they come,
// drain, are full and are lost.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/json.h"
#include "engine/retry_delay.h"
#include "health.grpc.pb.h"
#include "rpc/coordinator/coordinator_server.h"
#include "rpc/grpc_status.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr uint32_t kLong = 2000;

CoordinatorOptions Fast() {
  CoordinatorOptions options;
  options.listen = "127.0.0.1:0";
  options.pool.load_interval = absl::Milliseconds(20);
  options.pool.silence = absl::Seconds(20);  // a loaded machine
  options.carry.timeout = absl::Seconds(20);
  return options;
}

class CoordinatorTest : public ::testing::Test {
 public:
  // `n` engines, and a coordinator that serves.
  void Start(int n, CoordinatorOptions options = Fast(), const EngineOptions& engine = {}) {
    for (int i = 0; i < n; ++i) {
      engines_.push_back(
          std::make_unique<ServedEngine>(ServedModel(), 4096, RpcServerOptions(), engine));
      engines_.back()->Run();
      options.engines.push_back(engines_.back()->address());
    }
    auto started = CoordinatorServer::Start(options);
    ASSERT_TRUE(started.ok()) << started.status();
    coordinator_ = *std::move(started);
    channel_ = ConnectTo(absl::StrCat("127.0.0.1:", coordinator_->port()));
    inference_ = pb::Inference::NewStub(channel_);
    control_ = pb::Control::NewStub(channel_);
    ASSERT_TRUE(Eventually([&] { return NumServing() == n; }));
  }
  ~CoordinatorTest() override {
    coordinator_.reset();  // before the engines
  }

  template <typename Condition>
  static bool Eventually(const Condition& condition) {
    for (int i = 0; i < 3000; ++i) {
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  int NumServing() const {
    int n = 0;
    for (const auto& view : coordinator_->registry().pool().Read()) n += view.status.serving();
    return coordinator_->serving() || n == 0 ? n : 0;
  }
  // What one engine says by itself, undisturbed.
  Answer Alone(const pb::GenerateRequest& request) const {
    return Ask(engines_[0]->inference(), request);
  }
  // The engine that runs something.
  ServedEngine* Busy() const {
    for (const auto& engine : engines_) {
      if (engine->engine().load().running_requests > 0) return engine.get();
    }
    return nullptr;
  }
  static void Kill(ServedEngine& engine) {
    engine.engine().FailAll(absl::UnavailableError("the engine is lost: a test wanted it"));
    engine.server().SetServing(false);
  }
  CoordinatorStats& stats() const { return coordinator_->registry().stats(); }

  std::vector<std::unique_ptr<ServedEngine>> engines_;
  std::unique_ptr<CoordinatorServer> coordinator_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<pb::Inference::Stub> inference_;
  std::unique_ptr<pb::Control::Stub> control_;
};

pb::GenerateRequest Sampled(uint32_t max_tokens, uint64_t seed) {
  pb::GenerateRequest request = GreedyRequest(max_tokens);
  request.mutable_sampling()->set_temperature(1.0);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_sampling()->set_frequency_penalty(0.3);
  request.mutable_sampling()->set_repetition_penalty(1.1);
  return request;
}

TEST_F(CoordinatorTest, SaysWhatAnEngineSays) {
  Start(2);
  pb::GenerateRequest request = Sampled(50, 4);
  request.set_request_id("mine");
  const Answer direct = Alone(request);
  const Answer routed = Ask(*inference_, request);
  ASSERT_TRUE(routed.status.ok()) << routed.status.error_message();
  EXPECT_EQ(routed.ids, direct.ids);
  EXPECT_EQ(routed.text, direct.text);
  EXPECT_EQ(routed.echoed_request_id, "mine");
  EXPECT_EQ(routed.last().usage().completion_tokens(), 50);
  for (const pb::GenerateResponse& event : routed.events) EXPECT_EQ(event.request_id(), "mine");
  EXPECT_EQ(stats().requests, 1);
  EXPECT_EQ(stats().finished, 1);
  EXPECT_EQ(stats().tokens, 50);
}

TEST_F(CoordinatorTest, AVerdictOnTheRequestIsTheClients) {
  Start(2);
  pb::GenerateRequest request = GreedyRequest(5);
  request.mutable_sampling()->set_temperature(9);
  EXPECT_EQ(Ask(*inference_, request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request = GreedyRequest(5);
  request.set_model("another");
  EXPECT_EQ(Ask(*inference_, request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  request = GreedyRequest(5);
  request.set_request_id("not one\n");
  EXPECT_EQ(Ask(*inference_, request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(stats().carried, 0);
}

TEST_F(CoordinatorTest, AnIdIsLiveOnce) {
  Start(1);
  pb::GenerateRequest request = GreedyRequest(20000);
  request.set_request_id("twice");
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, request);
  stream->WaitForInitialMetadata();
  EXPECT_EQ(Ask(*inference_, request).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  context.TryCancel();
  pb::GenerateResponse event;
  while (stream->Read(&event)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(engines_[0]->BecomesIdle());
  request.mutable_stopping()->set_max_tokens(3);
  EXPECT_TRUE(Eventually([&] { return Ask(*inference_, request).status.ok(); }));
}

// The engine is lost in the middle: the client sees one stream, equal to an undisturbed one.
void ExpectCarried(CoordinatorTest& test, const pb::GenerateRequest& request) {
  const Answer direct = test.Alone(request);
  grpc::ClientContext context;
  const auto stream = test.inference_->Generate(&context, request);
  pb::GenerateResponse event;
  Answer routed;
  ASSERT_TRUE(stream->Read(&event));
  for (const auto& token : event.token().tokens()) routed.ids.push_back(token.token_id());
  routed.text += event.token().text();
  ServedEngine* busy = test.Busy();
  ASSERT_NE(busy, nullptr);
  CoordinatorTest::Kill(*busy);
  ReadToEnd(&context, stream.get(), &routed);
  ASSERT_TRUE(routed.status.ok()) << routed.status.error_message();
  EXPECT_EQ(routed.ids, direct.ids);
  EXPECT_EQ(routed.text, direct.text);
  EXPECT_EQ(routed.last().usage().completion_tokens(), direct.last().usage().completion_tokens());
  EXPECT_EQ(routed.last().usage().prompt_tokens(), direct.last().usage().prompt_tokens());
  EXPECT_EQ(test.stats().carried, 1);
}

TEST_F(CoordinatorTest, AGreedyStreamGoesOnElsewhere) {
  Start(2);
  ExpectCarried(*this, GreedyRequest(kLong));
}

TEST_F(CoordinatorTest, ASampledStreamGoesOnElsewhere) {
  Start(2);
  ExpectCarried(*this, Sampled(kLong, 99));
}

// What became of a request, where it was last, and how often it was carried; never what it said.
TEST_F(CoordinatorTest, EveryRequestLeavesOneLine) {
  const TempDir dir;
  CoordinatorOptions options = Fast();
  options.request_log = dir.File("requests.jsonl");
  Start(2, options);
  pb::GenerateRequest request = GreedyRequest(kLong);
  request.set_request_id("carried");
  ExpectCarried(*this, request);
  request = GreedyRequest(5);
  request.set_request_id("refused");
  request.mutable_sampling()->set_temperature(9);
  EXPECT_FALSE(Ask(*inference_, request).status.ok());
  ASSERT_TRUE(Eventually([&] { return absl::c_count(ReadFile(options.request_log), '\n') == 2; }));

  const std::vector<std::string> lines = absl::StrSplit(ReadFile(options.request_log), '\n');
  const auto carried = Json::Parse(lines[0], "the first line");
  ASSERT_TRUE(carried.ok()) << carried.status();
  EXPECT_EQ(*carried->root().GetString("request_id"), "carried");
  EXPECT_EQ(*carried->root().GetString("status"), "OK");
  EXPECT_EQ(*carried->root().GetString("finish_reason"), "length");
  EXPECT_EQ(*carried->root().GetInt("completion_tokens"), kLong);
  EXPECT_EQ(*carried->root().GetInt("attempts"), 2);
  EXPECT_TRUE(absl::c_any_of(engines_, [&](const auto& engine) {
    return engine->address() == *carried->root().GetString("engine");
  }));
  EXPECT_GT(*carried->root().GetDouble("e2e_seconds"), *carried->root().GetDouble("ttft_seconds"));
  const auto refused = Json::Parse(lines[1], "the second line");
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(*refused->root().GetString("status"), "INVALID_ARGUMENT");
  EXPECT_FALSE(refused->root().Has("finish_reason"));
}

TEST_F(CoordinatorTest, NewRequestsAreRefusedWhileNoEngineServes) {
  Start(1);
  Kill(*engines_[0]);
  EXPECT_TRUE(Eventually([&] { return !coordinator_->serving(); }));
  const Answer refused = Ask(*inference_, GreedyRequest(5));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckResponse health;
  EXPECT_TRUE(grpc::health::v1::Health::NewStub(channel_)->Check(&context, {}, &health).ok());
  EXPECT_EQ(health.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
}

TEST_F(CoordinatorTest, AFullEngineLeavesItToAnother) {
  EngineOptions one;
  one.max_num_seqs = 1;
  one.max_queued_requests = 1;
  CoordinatorOptions options = Fast();
  options.pool.policy = RoutingPolicy::kRoundRobin;
  Start(2, options, one);
  struct Open {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> reader;
  };
  // Both engines run one and have one waiting.
  std::vector<std::unique_ptr<Open>> open;
  for (int i = 0; i < 4; ++i) {
    open.push_back(std::make_unique<Open>());
    open.back()->reader = inference_->Generate(&open.back()->context, GreedyRequest(20000));
    open.back()->reader->WaitForInitialMetadata();
    if (i != 1) continue;
    for (const auto& engine : engines_) {  // none of the first two waits any more
      ASSERT_TRUE(Eventually([&] { return engine->engine().load().running_requests == 1; }));
    }
  }
  const Answer refused = Ask(*inference_, GreedyRequest(5));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(RetryDelayOf(FromGrpc(refused.status)).has_value());
  for (const auto& stream : open) {
    stream->context.TryCancel();
    pb::GenerateResponse event;
    while (stream->reader->Read(&event)) {
    }
    stream->reader->Finish();
  }
  for (const auto& engine : engines_) EXPECT_TRUE(engine->BecomesIdle());
}

TEST_F(CoordinatorTest, AbortEndsTheStreamWithUsage) {
  Start(2);
  pb::GenerateRequest request = GreedyRequest(20000);
  request.set_request_id("abort-me");
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, request);
  stream->WaitForInitialMetadata();
  grpc::ClientContext abort_context;
  pb::AbortRequest abort;
  pb::AbortResponse response;
  abort.set_request_id("abort-me");
  ASSERT_TRUE(control_->Abort(&abort_context, abort, &response).ok());
  EXPECT_EQ(response.status(), pb::ABORT_STATUS_ABORTED);
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.last().finished().reason(), pb::FINISH_REASON_CANCELLED);
  EXPECT_EQ(answer.last().usage().completion_tokens(), answer.ids.size());
}

TEST_F(CoordinatorTest, ControlSpeaksForAllEngines) {
  Start(2);
  grpc::ClientContext info_context;
  pb::ServerInfo info;
  ASSERT_TRUE(control_->GetServerInfo(&info_context, {}, &info).ok());
  EXPECT_EQ(info.extra().fields().at("engines").number_value(), 2);
  EXPECT_EQ(info.supported_models_size(), 1);
  grpc::ClientContext model_context;
  pb::ModelInfo model;
  ASSERT_TRUE(control_->GetModelInfo(&model_context, {}, &model).ok());
  EXPECT_EQ(model.model_id(), "tiny");
  grpc::ClientContext load_context;
  pb::LoadInfo load;
  pb::GetLoadRequest per_rank;
  per_rank.set_include_per_rank(true);
  ASSERT_TRUE(control_->GetLoad(&load_context, per_rank, &load).ok());
  EXPECT_EQ(load.total_kv_blocks(), 2 * 4096);
  EXPECT_EQ(load.ranks_size(), 2);
}

TEST_F(CoordinatorTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Start(1);
  grpc::ClientContext context;
  const auto stream = inference_->Generate(&context, GreedyRequest(kLong));
  stream->WaitForInitialMetadata();
  std::thread drain([&] { coordinator_->Drain(absl::Seconds(60)); });
  drain.join();
  const Answer refused = Ask(*inference_, GreedyRequest(5));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), kLong);
  coordinator_->WaitUntilDrained();
}

// A reader that takes nothing holds up its own stream alone, and the engine gives it up.
TEST_F(CoordinatorTest, ASlowReaderHoldsUpNobody) {
  Start(1);
  grpc::ClientContext context;
  const auto narrow = ConnectTo(absl::StrCat("127.0.0.1:", coordinator_->port()), 1024);
  const auto slow = pb::Inference::NewStub(narrow)->Generate(&context, GreedyRequest(3000));
  slow->WaitForInitialMetadata();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Ask(*inference_, GreedyRequest(20)).status.ok());
  Answer answer;
  ReadToEnd(&context, slow.get(), &answer);  // reads on after all
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 3000);
}

}  // namespace
}  // namespace polystrate
