#include "launcher/load_stages.h"

#include <gtest/gtest.h>

#include "openengine.grpc.pb.h"
#include "polystrate_admin.grpc.pb.h"
#include "rpc/connector.h"

namespace polystrate {
namespace {

// TP 2 x PP 2 that has worked for a while, by the time of the call.
class FakeAdmin final : public v1::Admin::Service {
 public:
  grpc::Status GetStages(grpc::ServerContext*, const v1::GetStagesRequest*,
                         v1::GetStagesResponse* response) override {
    const double since = ++calls_;
    for (uint32_t rank = 0; rank < 4; ++rank) {
      v1::RankActivity& activity = *response->add_ranks();
      activity.set_rank(rank);
      activity.set_tp_rank(rank % 2);
      activity.set_pp_rank(rank / 2);
      activity.set_busy_seconds(100 + since * (rank < 2 ? 3 : 1));
      activity.set_waiting_seconds(50 + since * (rank < 2 ? 1 : 3 + rank % 2 * 2));
    }
    return grpc::Status::OK;
  }

 private:
  int calls_ = 0;
};

TEST(LoadStagesTest, SharesAreOfWhatPassedBetweenTwoCalls) {
  FakeAdmin admin;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&admin);
  const auto server = builder.BuildAndStart();
  const auto channel = Connector().Connect("127.0.0.1:" + std::to_string(port));
  const auto before = AskStageTimes(channel);
  const auto after = AskStageTimes(channel);
  ASSERT_EQ(before.size(), 2u);
  EXPECT_EQ(before[0].busy_seconds, 212.0);  // of the second answer
  EXPECT_EQ(before[1].waiting_seconds, 116.0);
  const std::vector<double> shares = BubbleShares(before, after);
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_DOUBLE_EQ(shares[0], 2.0 / 8.0);
  EXPECT_DOUBLE_EQ(shares[1], 8.0 / 10.0);
  EXPECT_EQ(BubbleShares(after, after), std::vector<double>(2, 0.0));
  EXPECT_TRUE(BubbleShares(after, before).empty());  // started anew
  EXPECT_TRUE(BubbleShares({}, after).empty());
  server->Shutdown();
}

TEST(LoadStagesTest, ATargetWithoutTheServiceTellsNothing) {
  int port = 0;
  openengine::v1::Control::Service other;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&other);
  const auto server = builder.BuildAndStart();
  EXPECT_TRUE(AskStageTimes(Connector().Connect("127.0.0.1:" + std::to_string(port))).empty());
  server->Shutdown();
}

}  // namespace
}  // namespace polystrate
