// `polystrate serve --register` and the pool of engines of a coordinator: it comes, hangs, drains.

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/coordinator/registry_service.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/within.h"

namespace polystrate {
namespace {

class E2eRegistration : public testing::Test {
 protected:
  E2eRegistration() {
    EnginePoolOptions options;
    options.silence = absl::Seconds(3);  // not that of a busy machine
    EnginePool::Events events;
    events.lost = [this](const std::string&) { ++num_lost_; };
    pool_ = *EnginePool::Create(options, {}, std::move(events));
    pool_->Connect();
    service_ = std::make_unique<RegistryService>(*pool_);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
  }
  ~E2eRegistration() override {
    pool_->Stop();
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
  }

  ServedRanksOptions Registered() const {
    ServedRanksOptions options;
    options.flags = {"--register", absl::StrCat("127.0.0.1:", port_)};
    return options;
  }

  std::atomic<int> num_lost_{0};
  std::unique_ptr<EnginePool> pool_;
  std::unique_ptr<RegistryService> service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(E2eRegistration, AnEngineComesHangsAndDrains) {
  ServedRanks engine(Registered());
  ASSERT_TRUE(Within(kLong, [&] { return pool_->any_serving(); })) << engine.mpirun().Err();
  const auto view = [this] { return pool_->Read().at(0); };
  EXPECT_EQ(view().status.target(), engine.address());
  ASSERT_TRUE(Within(kLong, [&] { return view().stages.ranks_size() == 2; }));
  const auto rank0 = static_cast<pid_t>(view().stages.ranks(0).pid());
  EXPECT_TRUE(Ask(pool_->Pick({})->inference(), GreedyRequest(3)).status.ok());

  // Its sockets live on, nobody answers.
  ASSERT_EQ(kill(rank0, SIGSTOP), 0);
  const absl::Time stopped = absl::Now();
  ASSERT_TRUE(Within(kLong, [&] { return num_lost_ == 1; }));
  EXPECT_LT(absl::Now() - stopped, absl::Seconds(10));
  EXPECT_FALSE(pool_->Pick({}).ok());
  ASSERT_EQ(kill(rank0, SIGCONT), 0);
  ASSERT_TRUE(Within(kLong, [&] { return pool_->any_serving(); }));
  EXPECT_EQ(view().status.times_lost(), 1u);

  engine.mpirun().Signal(SIGUSR1);
  EXPECT_EQ(engine.mpirun().Wait(absl::Seconds(20)), 0) << engine.mpirun().Err();
  EXPECT_FALSE(pool_->any_serving());
  EXPECT_EQ(num_lost_, 1) << "it went as it should";
  EXPECT_NE(engine.mpirun().Err().find(absl::StrCat("serve: registered with 127.0.0.1:", port_)),
            std::string::npos);
}

}  // namespace
}  // namespace polystrate
