// EnginePool over real sockets, with engines that come, go, hang and come back.
#include "rpc/coordinator/engine_pool.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "tests/rpc/fake_engine.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/within.h"

namespace polystrate {
namespace {

class EnginePoolTest : public testing::Test {
 protected:
  EnginePoolTest() {
    options_.load_interval = absl::Milliseconds(20);
    options_.silence = absl::Seconds(10);
  }

  static void SetUpTestSuite() {
    // Never destroyed: EnginePool wants a server that outlives it.
    static const auto* const outliving = new FakeEngine();
    EXPECT_NE(outliving->port(), 0);
  }

  absl::Status Start(const std::vector<std::string>& targets) {
    EnginePool::Events events;
    events.serving = [this] { ++num_serving_; };
    events.lost = [this](const std::string& target) {
      absl::MutexLock lock(&mutex_);
      lost_.push_back(target);
    };
    auto pool = EnginePool::Create(options_, targets, std::move(events));
    if (!pool.ok()) return pool.status();
    pool_ = *std::move(pool);
    pool_->Connect();
    return absl::OkStatus();
  }

  // As ListEngines would tell it.
  v1::EngineStatus StatusOf(const std::string& target) const {
    for (const EnginePool::View& view : pool_->Read()) {
      if (view.status.target() == target) return view.status;
    }
    return {};
  }
  bool Serves(const std::string& target) const { return StatusOf(target).serving(); }
  bool Comes(const std::string& target) const {
    return Within(kLong, [&] { return Serves(target); });
  }
  bool Goes(const std::string& target) const {
    return Within(kLong, [&] { return !Serves(target); });
  }
  std::vector<std::string> lost() {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }
  std::string PickTarget(const RouteHint& hint = {}) {
    auto lease = pool_->Pick(hint);
    return lease.ok() ? lease->target() : lease.status().ToString();
  }

  EnginePoolOptions options_;
  std::atomic<int> num_serving_{0};
  absl::Mutex mutex_;
  std::vector<std::string> lost_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<EnginePool> pool_;
};

TEST_F(EnginePoolTest, AnEngineIsPickedWhileItServes) {
  ServedEngine served;
  ASSERT_TRUE(Start({served.address()}).ok());
  EXPECT_TRUE(Within(kLong, [&] { return StatusOf(served.address()).model() == "tiny"; }));
  EXPECT_FALSE(pool_->any_serving()) << "it reads its weights as yet";
  EXPECT_TRUE(Fails(pool_->Pick({}).status(), absl::StatusCode::kUnavailable, "no engine serves"));
  served.Run();
  ASSERT_TRUE(Comes(served.address()));
  EXPECT_TRUE(pool_->any_serving());
  EXPECT_TRUE(Within(kLong, [&] { return num_serving_ == 1; }));
  EXPECT_EQ(StatusOf(served.address()).problem(), "");

  auto lease = pool_->Pick({.model = "tiny"});
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->target(), served.address());
  EXPECT_EQ(StatusOf(served.address()).streams(), 1u);
  EXPECT_EQ(Ask(lease->inference(), GreedyRequest(5)).ids.size(), 5u);
  // The engine's own figures come along.
  EXPECT_TRUE(Within(kLong, [&] { return pool_->Read()[0].stages.ranks_size() == 1; }));
  EXPECT_EQ(StatusOf(served.address()).total_kv_blocks(), 4096u);
}

TEST_F(EnginePoolTest, ADrainedEngineKeepsItsStreams) {
  ServedEngine served;
  served.Run();
  ASSERT_TRUE(Start({served.address()}).ok());
  ASSERT_TRUE(Comes(served.address()));
  auto lease = pool_->Pick({});
  ASSERT_TRUE(lease.ok());
  grpc::ClientContext context;
  const auto stream = lease->inference().Generate(&context, GreedyRequest(2000));
  pb::GenerateResponse event;
  ASSERT_TRUE(stream->Read(&event));
  served.server().Drain(absl::Seconds(60));
  ASSERT_TRUE(Goes(served.address()));
  EXPECT_EQ(StatusOf(served.address()).problem(), "draining: it says NOT_SERVING");
  EXPECT_FALSE(pool_->Pick({}).ok());
  Answer answer;
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_TRUE(answer.last().has_finished());
  lease = absl::CancelledError("done");  // gives it back
  served.Stop(absl::ZeroDuration());
  served.server().Shutdown(absl::Now());
  EXPECT_TRUE(Within(kLong, [&] {
    return StatusOf(served.address()).problem().find("draining") == std::string::npos;
  })) << "it has gone";
  EXPECT_EQ(StatusOf(served.address()).times_lost(), 0u);
  EXPECT_TRUE(lost().empty());
}

TEST_F(EnginePoolTest, AnEngineThatDiesIsLostOnceAndFoundAgainOnItsPort) {
  const int port = FreePort();
  const std::string target = absl::StrCat("127.0.0.1:", port);
  auto engine = std::make_unique<FakeEngine>("tiny", port);
  ASSERT_TRUE(Start({target}).ok());
  ASSERT_TRUE(Comes(target));
  engine.reset();
  ASSERT_TRUE(Goes(target));
  EXPECT_TRUE(Within(kLong, [&] { return lost().size() == 1; }));
  EXPECT_EQ(lost(), std::vector<std::string>{target});
  EXPECT_EQ(StatusOf(target).times_lost(), 1u);
  EXPECT_FALSE(StatusOf(target).problem().empty());
  EXPECT_FALSE(pool_->any_serving());
  absl::SleepFor(absl::Milliseconds(700));  // it is tried a few times
  EXPECT_EQ(num_serving_, 1);

  engine = std::make_unique<FakeEngine>("tiny", port, "second");
  const absl::Time back = absl::Now();
  ASSERT_TRUE(Comes(target));
  EXPECT_LT(absl::Now() - back, absl::Seconds(5)) << "gRPC's own back-off must not slow it";
  EXPECT_TRUE(Within(kLong, [&] { return num_serving_ == 2; }));
  EXPECT_EQ(StatusOf(target).times_lost(), 1u);
  EXPECT_EQ(lost().size(), 1u);
}

TEST_F(EnginePoolTest, AnEngineThatFallsSilentIsLost) {
  options_.silence = absl::Seconds(1);
  FakeEngine engine;
  ASSERT_TRUE(Start({engine.target()}).ok());
  ASSERT_TRUE(Comes(engine.target()));
  engine.SetSilent(true);
  const absl::Time start = absl::Now();
  ASSERT_TRUE(Within(kLong, [&] { return lost().size() == 1; }));
  EXPECT_GT(absl::Now() - start, absl::Milliseconds(800));
  EXPECT_FALSE(Serves(engine.target()));
  engine.SetSilent(false);
  EXPECT_TRUE(Comes(engine.target()));
  EXPECT_EQ(StatusOf(engine.target()).times_lost(), 1u);
}

TEST_F(EnginePoolTest, APortThatNeverAnswersHoldsUpNothing) {
  options_.silence = absl::Seconds(1);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener, 16), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string target = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  FakeEngine engine;
  ASSERT_TRUE(Start({target, engine.target()}).ok());
  ASSERT_TRUE(Comes(engine.target()));
  EXPECT_TRUE(Within(kLong, [&] {
    return StatusOf(target).problem().find("no answer in 1s") != std::string::npos;
  })) << StatusOf(target).problem();
  EXPECT_EQ(PickTarget(), engine.target());
  EXPECT_TRUE(lost().empty()) << "nobody was there";
  pool_->Stop();
  close(listener);
}

TEST_F(EnginePoolTest, ABlamedEngineIsAskedAgain) {
  FakeEngine engine;
  ASSERT_TRUE(Start({engine.target()}).ok());
  ASSERT_TRUE(Comes(engine.target()));
  auto lease = pool_->Pick({});
  auto other = pool_->Pick({});
  ASSERT_TRUE(lease.ok() && other.ok());
  lease->ReportLost(absl::UnavailableError("the stream broke"));
  EXPECT_FALSE(pool_->Pick({}).ok()) << "at once";
  ASSERT_TRUE(Comes(engine.target()));
  EXPECT_TRUE(Within(kLong, [&] { return num_serving_ == 2; }));
  // It was there all the time.
  EXPECT_TRUE(lost().empty());
  EXPECT_EQ(StatusOf(engine.target()).times_lost(), 0u);
  // What was over the connection before says nothing of the one that is up now.
  other->ReportLost(absl::UnavailableError("the stream broke"));
  EXPECT_TRUE(Serves(engine.target()));
}

TEST_F(EnginePoolTest, AnotherProcessBehindTheAddressIsALoss) {
  FakeEngine engine;
  ASSERT_TRUE(Start({engine.target()}).ok());
  ASSERT_TRUE(Comes(engine.target()));
  engine.SetInstanceId("second");
  EXPECT_TRUE(Within(kLong, [&] { return lost().size() == 1; }));
  EXPECT_EQ(StatusOf(engine.target()).times_lost(), 1u);
  EXPECT_TRUE(Serves(engine.target()));
}

TEST_F(EnginePoolTest, GoesWhereTheLeastIsToDo) {
  FakeEngine a;
  FakeEngine b;
  ASSERT_TRUE(Start({a.target(), b.target()}).ok());
  ASSERT_TRUE(Comes(a.target()) && Comes(b.target()));
  // Somebody else's.
  a.SetLoad(5000, 3000);
  ASSERT_TRUE(
      Within(kLong, [&] { return PickTarget() == b.target() && PickTarget() == b.target(); }));
  // This coordinator's: what the engine reports of it is not counted again.
  auto lease = pool_->Pick({.prompt_tokens = 4000, .output_tokens = 3000});
  ASSERT_TRUE(lease.ok());
  ASSERT_EQ(lease->target(), b.target());
  EXPECT_EQ(StatusOf(b.target()).outstanding_tokens(), 7000u);
  b.SetLoad(0, 4000);
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(PickTarget(), b.target()) << "7,000 there, 8,000 at the other";
  lease->OnTokens(1);
  EXPECT_EQ(StatusOf(b.target()).outstanding_tokens(), 2999u) << "the prompt is done";
  b.SetLoad(4001, 0);
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(PickTarget(), b.target());
  auto moved = *std::move(lease);
  moved.OnTokens(5000);
  EXPECT_EQ(StatusOf(b.target()).outstanding_tokens(), 0u) << "more than was said";
  EXPECT_EQ(StatusOf(b.target()).streams(), 1u);
  lease = std::move(moved);
  lease = absl::CancelledError("done");
  EXPECT_EQ(StatusOf(b.target()).streams(), 0u);
  b.SetLoad(9000, 0);
  EXPECT_TRUE(Within(kLong, [&] { return PickTarget() == a.target(); }));
}

TEST_F(EnginePoolTest, PromptsGoWhereTheirBeginningIs) {
  FakeEngine a;
  FakeEngine b;
  ASSERT_TRUE(Start({a.target(), b.target()}).ok());
  ASSERT_TRUE(Comes(a.target()) && Comes(b.target()));
  std::map<std::string, int> prompts;
  for (uint64_t prompt = 1; prompt <= 10; ++prompt) {
    const PrefixHashes prefix = {prompt * 100, prompt * 100 + 1, prompt * 100 + 2};
    const std::string home = PickTarget({.prefix = prefix});
    ++prompts[home];
    for (int i = 0; i < 5; ++i) EXPECT_EQ(PickTarget({.prefix = prefix}), home);
    PrefixHashes longer = prefix;
    longer.push_back(prompt);
    EXPECT_EQ(PickTarget({.prefix = longer}), home);
  }
  EXPECT_EQ(prompts[a.target()], 5);
  EXPECT_EQ(prompts[b.target()], 5);
  EXPECT_EQ(PickTarget({.prefix = {100, 101, 102}, .avoid = {a.target()}}), b.target());
  EXPECT_EQ(PickTarget({.routing_key = "x", .avoid = {a.target(), b.target()}}),
            PickTarget({.routing_key = "x"}));
  // Another process has an empty cache.
  const PrefixHashes prefix = {7, 8, 9, 10};
  const std::string home = PickTarget({.prefix = prefix});
  (home == a.target() ? a : b).SetInstanceId("second");
  ASSERT_TRUE(Within(kLong, [&] { return lost().size() == 1; }));
  auto busy = pool_->Pick({.prompt_tokens = 100});
  while (busy->target() != home) busy = pool_->Pick({.prompt_tokens = 100});
  EXPECT_NE(PickTarget({.prefix = prefix}), home);
}

TEST_F(EnginePoolTest, ModelsAreTakenApart) {
  FakeEngine a("red");
  FakeEngine b("blue");
  ASSERT_TRUE(Start({a.target(), b.target()}).ok());
  ASSERT_TRUE(Comes(a.target()) && Comes(b.target()));
  for (const std::string model : {"red", "red-alias", "files/red"}) {
    EXPECT_EQ(PickTarget({.model = model}), a.target());
  }
  EXPECT_EQ(PickTarget({.model = "blue"}), b.target());
  EXPECT_TRUE(
      Fails(pool_->Pick({.model = "green"}).status(), absl::StatusCode::kNotFound, "green"));
  EXPECT_TRUE(
      Fails(pool_->Pick({}).status(), absl::StatusCode::kInvalidArgument, "one of blue, red"));
  b.SetServing(false);
  ASSERT_TRUE(Goes(b.target()));
  EXPECT_TRUE(
      Fails(pool_->Pick({.model = "blue"}).status(), absl::StatusCode::kUnavailable, "blue"));
}

TEST_F(EnginePoolTest, EnginesRegisterForATime) {
  FakeEngine engine;
  ASSERT_TRUE(Start({}).ok());
  v1::RegisterRequest request;
  request.set_target(engine.target());
  for (const double seconds : {0.0, 0.9, 3600.1, -1.0, std::nan("")}) {
    request.set_lease_seconds(seconds);
    EXPECT_TRUE(
        Fails(pool_->Register(request), absl::StatusCode::kInvalidArgument, "lease_seconds"));
  }
  request.set_lease_seconds(1);
  request.set_target("nowhere");
  EXPECT_TRUE(Fails(pool_->Register(request), absl::StatusCode::kInvalidArgument, "target"));
  request.set_target(engine.target());
  const absl::Time start = absl::Now();
  EXPECT_TRUE(pool_->Register(request).ok());
  EXPECT_TRUE(Comes(engine.target()));
  for (int i = 0; i < 3; ++i) {
    absl::SleepFor(absl::Milliseconds(400));
    EXPECT_TRUE(pool_->Register(request).ok());
  }
  EXPECT_TRUE(Serves(engine.target()));
  EXPECT_GT(absl::Now() - start, absl::Seconds(1));
  auto lease = pool_->Pick({});
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE(Within(kLong, [&] { return pool_->Read().empty(); })) << "no word for a second";
  EXPECT_FALSE(pool_->Pick({}).ok());
  EXPECT_TRUE(lost().empty());
  lease->OnTokens(1);
  lease->ReportLost(absl::UnavailableError("later"));
  // And again.
  EXPECT_TRUE(pool_->Register(request).ok());
  EXPECT_TRUE(Comes(engine.target()));
}

TEST_F(EnginePoolTest, FollowsItsFile) {
  FakeEngine a;
  FakeEngine b;
  TempDir dir;
  options_.engine_file = dir.File("engines");
  EXPECT_TRUE(Fails(Start({}), absl::StatusCode::kNotFound, options_.engine_file));
  WriteFile(options_.engine_file, "127.0.0.1:x\n");
  EXPECT_TRUE(Fails(Start({}), absl::StatusCode::kInvalidArgument, "engines:1"));
  WriteFile(options_.engine_file, absl::StrCat("# ours\n\n  ", a.target(), "  # the first\n"));
  ASSERT_TRUE(Start({}).ok());
  EXPECT_TRUE(Comes(a.target()));
  WriteFile(options_.engine_file, absl::StrCat(a.target(), "\n", b.target(), "\n"));
  EXPECT_TRUE(Comes(b.target()));

  testing::internal::CaptureStderr();
  WriteFile(options_.engine_file, absl::StrCat(a.target(), "\n", b.target(), ":7:\n"));
  absl::SleepFor(absl::Milliseconds(2500));
  EXPECT_EQ(pool_->Read().size(), 2u) << "what was there before stays in force";
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("engines:2"), std::string::npos) << log;
  EXPECT_EQ(log.find("engines:2"), log.rfind("engines:2")) << "once is enough: " << log;

  auto lease = pool_->Pick({.avoid = {b.target()}});
  ASSERT_TRUE(lease.ok());
  WriteFile(options_.engine_file, absl::StrCat(b.target(), "\n"));
  EXPECT_TRUE(Within(kLong, [&] { return pool_->Read().size() == 1; }));
  EXPECT_EQ(PickTarget(), b.target());
  lease->OnTokens(3);
}

TEST_F(EnginePoolTest, StopsInTheMiddleOfAnything) {
  FakeEngine engine;
  engine.SetSilent(true);
  options_.silence = absl::Seconds(60);
  EXPECT_TRUE(Fails(Start({"127.0.0.1"}), absl::StatusCode::kInvalidArgument, "--engine"));
  ASSERT_TRUE(Start({engine.target(), "192.0.2.1:1", "127.0.0.1:1"}).ok());
  absl::SleepFor(absl::Milliseconds(100));
  const absl::Time start = absl::Now();
  pool_->Stop();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  pool_->Stop();
  pool_.reset();

  // A lease lives on.
  engine.SetSilent(false);
  ASSERT_TRUE(Start({engine.target()}).ok());
  ASSERT_TRUE(Comes(engine.target()));
  auto lease = pool_->Pick({});
  ASSERT_TRUE(lease.ok());
  pool_.reset();
  lease->OnTokens(1);
  lease->ReportLost(absl::UnavailableError("late"));
  pb::LoadInfo load;
  grpc::ClientContext context;
  EXPECT_TRUE(lease->control().GetLoad(&context, pb::GetLoadRequest(), &load).ok());
  EXPECT_TRUE(lost().empty());
}

}  // namespace
}  // namespace polystrate
