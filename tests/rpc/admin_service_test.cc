#include "rpc/admin_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <thread>

#include "health.grpc.pb.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

class AdminServiceTest : public ::testing::Test {
 protected:
  grpc::Status Drain(const v1::DrainRequest& request, v1::DrainResponse* response) const {
    grpc::ClientContext context;
    return v1::Admin::NewStub(served_.channel())->Drain(&context, request, response);
  }
  pb::HealthState Health() {
    grpc::ClientContext context;
    pb::HealthResponse health;
    EXPECT_TRUE(served_.control().Health(&context, pb::HealthRequest(), &health).ok());
    return health.state();
  }
  bool GrpcServing() const {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckResponse response;
    EXPECT_TRUE(
        grpc::health::v1::Health::NewStub(served_.channel())->Check(&context, {}, &response).ok());
    return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  }
  // Waits for its first token.
  std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> Begin(grpc::ClientContext* context) {
    auto stream = served_.inference().Generate(context, GreedyRequest(/*max_tokens=*/20000));
    pb::GenerateResponse event;
    EXPECT_TRUE(stream->Read(&event));
    return stream;
  }

  ServedEngine served_;
};

TEST_F(AdminServiceTest, DrainRefusesWhatComes) {
  served_.Run();
  EXPECT_TRUE(GrpcServing());
  grpc::ClientContext context;
  const auto stream = Begin(&context);
  v1::DrainRequest request;
  v1::DrainResponse response;
  for (const double bad : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    request.set_timeout_seconds(bad);
    EXPECT_EQ(Drain(request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);

  request.clear_timeout_seconds();
  EXPECT_TRUE(Drain(request, &response).ok());
  EXPECT_EQ(response.live_requests(), 1u);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_DRAINING);
  EXPECT_FALSE(GrpcServing());
  EXPECT_EQ(Ask(served_.inference(), GreedyRequest(1)).status.error_code(),
            grpc::StatusCode::UNAVAILABLE);

  request.set_timeout_seconds(0);
  EXPECT_TRUE(Drain(request, &response).ok());
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AdminServiceTest, ADrainBeforeTheStartIsNotForgotten) {
  v1::DrainResponse response;
  EXPECT_TRUE(Drain(v1::DrainRequest(), &response).ok());
  EXPECT_FALSE(served_.server().SetServing(true));
  EXPECT_FALSE(GrpcServing());
}

TEST_F(AdminServiceTest, GetStagesReadsTheTable) {
  served_.Run();
  EXPECT_EQ(Ask(served_.inference(), GreedyRequest(30)).status.error_code(), grpc::StatusCode::OK);
  ASSERT_TRUE(served_.BecomesIdle());
  RankTable& table = served_.engine().ranks();
  table.SetPlace(0, "host-a", 1234);
  RankReport report;
  report.busy_ns = 2'000'000;
  report.steps = 30;
  report.tokens = 32;
  report.step_id = 29;
  table.Update(0, report);
  grpc::ClientContext context;
  v1::GetStagesResponse stages;
  ASSERT_TRUE(v1::Admin::NewStub(served_.channel())->GetStages(&context, {}, &stages).ok());
  ASSERT_EQ(stages.ranks_size(), 1);
  const v1::RankActivity& rank = stages.ranks(0);
  EXPECT_EQ(rank.host(), "host-a");
  EXPECT_EQ(rank.pid(), 1234);
  EXPECT_EQ(rank.steps(), 30u);
  EXPECT_EQ(rank.tokens(), 32u);
  EXPECT_EQ(rank.last_step_id(), 29u);
  EXPECT_DOUBLE_EQ(rank.busy_seconds(), 0.002);
  EXPECT_NEAR(rank.bubble_share(), rank.waiting_seconds() / (rank.waiting_seconds() + 0.002), 1e-9);
  EXPECT_FALSE(rank.doing().empty());

  ASSERT_EQ(stages.stages_size(), 1);
  const v1::StageLayout& stage = stages.stages(0);
  EXPECT_EQ(stage.pp_rank(), 0u);
  EXPECT_EQ(stage.first_layer(), 0u);
  EXPECT_EQ(stage.end_layer(), 2u);
  EXPECT_THAT(stage.kv_source(), ::testing::ElementsAre(0u, 0u));
  EXPECT_EQ(stage.kv_bytes_per_token(), 2u * 1 * 1 * 8 * 4) << "one KV head of one owner";
}

TEST_F(AdminServiceTest, ASlowStepShowsInHealthAlone) {
  served_.Run();
  served_.engine().SetDegraded(true);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_DEGRADED);
  EXPECT_TRUE(GrpcServing());
  EXPECT_TRUE(Ask(served_.inference(), GreedyRequest(3)).status.ok());
  served_.engine().SetDegraded(false);
  EXPECT_EQ(Health(), pb::HEALTH_STATE_READY);
}

// The engine's thread waits for a result that does not come; streams end all the same, and if it
// comes after all nothing goes wrong.
TEST_F(AdminServiceTest, ALostEngineEndsItsStreamsWhateverItsThreadIsStuckIn) {
  served_.Run();
  grpc::ClientContext context;
  const auto stream = Begin(&context);
  served_.HoldResults(true);
  absl::SleepFor(absl::Milliseconds(50));
  std::thread second([&] {
    EXPECT_EQ(Ask(served_.inference(), GreedyRequest(10)).status.error_code(),
              grpc::StatusCode::UNAVAILABLE)
        << "submitted, and not yet seen by the engine's thread";
  });
  while (served_.engine().load().queued_requests == 0) absl::SleepFor(absl::Milliseconds(1));
  served_.engine().FailAll(absl::UnavailableError("rank 3 is lost"));
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer.status.error_message(), "rank 3 is lost");
  second.join();
  EXPECT_EQ(Ask(served_.inference(), GreedyRequest(1)).status.error_message(), "rank 3 is lost");
  EXPECT_EQ(Health(), pb::HEALTH_STATE_NOT_READY);
  EXPECT_EQ(served_.engine().load().used_blocks, 0);
  served_.HoldResults(false);
  served_.Stop(absl::ZeroDuration());
  EXPECT_TRUE(served_.BecomesIdle());
}

}  // namespace
}  // namespace polystrate
