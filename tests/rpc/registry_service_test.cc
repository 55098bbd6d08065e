// Registrations of engines with a coordinator's registry, over real sockets.
#include "rpc/coordinator/registry_service.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "rpc/registration.h"
#include "tests/rpc/fake_engine.h"
#include "tests/testing/process.h"
#include "tests/testing/within.h"

namespace polystrate {
namespace {

// A coordinator, but for its clients.
class Registry {
 public:
  explicit Registry(int port) {
    EnginePoolOptions options;
    options.load_interval = absl::Milliseconds(20);
    pool_ = *EnginePool::Create(options, {}, {});
    pool_->Connect();
    service_ = std::make_unique<RegistryService>(*pool_);
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials());
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
  }
  ~Registry() {
    pool_->Stop();
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
  }

  EnginePool& pool() { return *pool_; }

 private:
  std::unique_ptr<EnginePool> pool_;
  std::unique_ptr<RegistryService> service_;
  std::unique_ptr<grpc::Server> server_;
};

class RegistrationTest : public testing::Test {
 protected:
  RegistrationOptions Options() const {
    RegistrationOptions options;
    options.coordinator = coordinator_;
    options.target = engine_.target();
    options.lease = absl::Seconds(1);
    return options;
  }

  const int port_ = FreePort();
  const std::string coordinator_ = absl::StrCat("127.0.0.1:", port_);
  FakeEngine engine_;
  std::atomic<bool> wanted_{true};
};

TEST_F(RegistrationTest, IsRenewedUntilTheEngineWantsNoMore) {
  Registry registry(port_);
  const Registration registration(Options(), [this] { return wanted_.load(); });
  ASSERT_TRUE(Within(kLong, [&] { return registry.pool().any_serving(); }));
  absl::SleepFor(absl::Milliseconds(1500));
  EXPECT_TRUE(registry.pool().any_serving()) << "the first lease is over";
  wanted_ = false;
  EXPECT_TRUE(Within(kLong, [&] { return registry.pool().Read().empty(); }));
}

TEST_F(RegistrationTest, OutlivesItsCoordinator) {
  testing::internal::CaptureStderr();
  {
    const Registration registration(Options(), [this] { return wanted_.load(); });
    absl::SleepFor(absl::Milliseconds(400));
    for (int life = 0; life < 2; ++life) {
      Registry registry(port_);
      EXPECT_TRUE(Within(kLong, [&] { return registry.pool().any_serving(); }));
    }
    absl::SleepFor(absl::Milliseconds(600));
  }
  const std::string log = testing::internal::GetCapturedStderr();
  const std::string failure = absl::StrCat("cannot register with ", coordinator_);
  const std::string success =
      absl::StrCat("serve: registered with ", coordinator_, " as ", engine_.target(), "\n");
  EXPECT_LT(log.find(failure), log.find(success)) << log;
  EXPECT_NE(log.find(success), std::string::npos) << log;
  EXPECT_LT(log.find(success), log.rfind(failure)) << log;
}

TEST_F(RegistrationTest, EndsThoughTheCoordinatorHangs) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port_));
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener, 4), 0);
  absl::Time start;
  {
    const Registration registration(Options(), [this] { return wanted_.load(); });
    absl::SleepFor(absl::Milliseconds(200));
    start = absl::Now();
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  close(listener);
}

TEST_F(RegistrationTest, TheRegistryListsItsEngines) {
  Registry registry(port_);
  const auto stub = v1::Coordinator::NewStub(Connector().Connect(coordinator_));
  const auto engines = [&stub] {
    grpc::ClientContext context;
    v1::ListEnginesResponse response;
    EXPECT_TRUE(stub->ListEngines(&context, v1::ListEnginesRequest(), &response).ok());
    return response.engines();
  };
  EXPECT_EQ(engines().size(), 0);
  v1::RegisterRequest request;
  v1::RegisterResponse response;
  request.set_lease_seconds(100);
  {
    grpc::ClientContext context;
    const grpc::Status status = stub->Register(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_NE(status.error_message().find("target"), std::string::npos);
  }
  for (const std::string& target : {engine_.target(), std::string("127.0.0.1:1")}) {
    grpc::ClientContext context;
    request.set_target(target);
    EXPECT_TRUE(stub->Register(&context, request, &response).ok());
  }
  ASSERT_TRUE(Within(kLong, [&] { return registry.pool().any_serving(); }));
  ASSERT_TRUE(Within(kLong, [&] { return !engines()[0].problem().empty(); }));
  EXPECT_EQ(engines().size(), 2);
  EXPECT_EQ(engines()[0].target(), "127.0.0.1:1");
  EXPECT_FALSE(engines()[0].serving());
  EXPECT_EQ(engines()[1].target(), engine_.target());
  EXPECT_EQ(engines()[1].model(), "tiny");
  EXPECT_TRUE(engines()[1].serving());
}

}  // namespace
}  // namespace polystrate
