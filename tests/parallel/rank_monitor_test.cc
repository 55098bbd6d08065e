// Ranks that are threads watch each other over real sockets; those that die, freeze or lie are
// played by bare connections.

#include "parallel/rank_monitor.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "kernels/core/mutex.h"
#include "parallel/host.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);  // a busy machine

// What a monitor has said.
class Losses {
 public:
  void Add(const LostRank& lost) {
    MutexLock lock(&mutex_);
    lost_.push_back(lost);
  }
  std::vector<LostRank> Read() const {
    MutexLock lock(&mutex_);
    return lost_;
  }
  bool Wait(absl::Duration timeout) const {
    for (const absl::Time end = absl::Now() + timeout; absl::Now() < end;) {
      if (!Read().empty()) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return !Read().empty();
  }

 private:
  mutable Mutex mutex_;
  std::vector<LostRank> lost_ ABSL_GUARDED_BY(mutex_);
};

MonitorOptions Options(Losses* losses, absl::Duration timeout = absl::Seconds(60)) {
  MonitorOptions options;
  options.timeout = timeout;
  options.on_lost = [losses](const LostRank& lost) { losses->Add(lost); };
  return options;
}

template <typename Condition>
bool Eventually(Condition condition) {
  for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end;) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return condition();
}

// Rank 0's side alone.
class HubTest : public ::testing::Test {
 protected:
  void Start(absl::Duration timeout = absl::Seconds(60)) {
    hub_ = *RankHub::Listen(/*loopback=*/true, activity_, &table_, Options(&losses_, timeout));
  }
  FrameConnection Connect() const {
    return FrameConnection(*Socket::Connect("127.0.0.1", hub_->address().port, kPatience));
  }
  Frame Hello(int rank) const {
    Frame hello;
    hello.type = FrameType::kHello;
    hello.secret = hub_->address().answer;
    hello.rank = rank;
    hello.pid = 4321;
    std::string("far-away").copy(hello.host, sizeof(hello.host));
    return hello;
  }
  bool Knows(int rank) const { return table_.Read(rank).pid != 0; }
  // True when the hub has hung up.
  static bool IsClosed(FrameConnection& connection) {
    std::vector<Frame> frames;
    return Eventually([&] { return !connection.Receive(&frames); });
  }

  RankActivity activity_;
  RankTable table_{{/*tp_size=*/1, /*pp_size=*/4}};
  Losses losses_;
  std::unique_ptr<RankHub> hub_;
};

TEST_F(HubTest, ARankWhoseConnectionEndsIsLostAtOnce) {
  Start();
  auto rank = std::make_unique<FrameConnection>(Connect());
  rank->Send(Hello(2));
  Frame report;
  report.type = FrameType::kReport;
  report.report.step_id = 77;
  rank->Send(report);
  ASSERT_TRUE(Eventually([&] { return table_.Read(2).report.step_id == 77; }));
  EXPECT_TRUE(losses_.Read().empty());
  const absl::Time killed = absl::Now();
  rank.reset();
  ASSERT_TRUE(losses_.Wait(kPatience));
  EXPECT_LT(absl::Now() - killed, absl::Milliseconds(200));
  const LostRank lost = losses_.Read()[0];
  EXPECT_EQ(lost.rank, 2);
  EXPECT_EQ(lost.host, "far-away");
  EXPECT_EQ(lost.pid, 4321);
  EXPECT_EQ(lost.how, "its process has ended");
  EXPECT_EQ(table_.Read(2).report.step_id, 77u) << "what it did last is kept";
}

TEST_F(HubTest, ARankThatSaysNothingIsLostAfterTheTimeOut) {
  Start(absl::Seconds(1));
  FrameConnection silent = Connect();
  silent.Send(Hello(1));
  FrameConnection talker = Connect();
  talker.Send(Hello(3));
  const absl::Time begin = absl::Now();
  while (losses_.Read().empty() && absl::Now() < begin + kPatience) {
    talker.Send(Frame{FrameType::kReport});
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(900));
  ASSERT_EQ(losses_.Read().size(), 1u);
  EXPECT_EQ(losses_.Read()[0].rank, 1);
  EXPECT_NE(losses_.Read()[0].how.find("no word from it for 1s"), std::string::npos);
}

// The others are told before the end, so that they do not report rank 0 as lost in turn.
// Else a rank 0 that was stopped, and goes on, would blame those that gave it up.
TEST_F(HubTest, RankZeroIsToldThatItWasMissed) {
  Start();
  FrameConnection rank = Connect();
  rank.Send(Hello(2));
  Frame missed;
  missed.type = FrameType::kMissed;
  rank.Send(missed);
  ASSERT_TRUE(losses_.Wait(kPatience));
  const LostRank lost = losses_.Read()[0];
  EXPECT_EQ(lost.rank, 0);
  EXPECT_EQ(lost.pid, getpid());
  EXPECT_EQ(lost.how, "rank 2 had no word from it for 1m and ends the job");
}

TEST_F(HubTest, TheRestIsToldThatRankZeroLeaves) {
  MonitorOptions options = Options(&losses_);
  std::atomic<bool> end{false};
  std::atomic<bool> ended{false};
  options.on_beat = [&](absl::Duration) { return end.load(); };
  options.on_end = [&] { ended = true; };
  hub_ = *RankHub::Listen(/*loopback=*/true, activity_, &table_, options);
  FrameConnection rank = Connect();
  rank.Send(Hello(1));
  ASSERT_TRUE(Eventually([&] { return Knows(1); }));
  EXPECT_FALSE(ended);
  end = true;
  EXPECT_TRUE(Eventually([&] { return ended.load(); }));
  std::vector<Frame> frames;
  ASSERT_TRUE(Eventually([&] {
    EXPECT_TRUE(rank.Receive(&frames));
    return !frames.empty() && frames.back().type == FrameType::kBye;
  }));
  EXPECT_TRUE(losses_.Read().empty());
}

TEST_F(HubTest, StrangersAreHungUpOnAndTellNothing) {
  Start(absl::Seconds(1));
  std::vector<FrameConnection> idle;
  for (int i = 0; i < 100; ++i) idle.push_back(Connect());  // more than may wait
  FrameConnection liar = Connect();
  Frame wrong = Hello(1);
  wrong.secret[3] ^= 1;
  idle.clear();
  liar.Send(wrong);
  EXPECT_TRUE(IsClosed(liar));
  for (int rank : {-1, 0, 4, 1 << 30}) {
    FrameConnection out_of_range = Connect();
    out_of_range.Send(Hello(rank));
    EXPECT_TRUE(IsClosed(out_of_range)) << rank;
  }
  FrameConnection impatient = Connect();
  impatient.Send(Frame{FrameType::kReport});
  EXPECT_TRUE(IsClosed(impatient));
  FrameConnection rank = Connect();
  rank.Send(Hello(1));
  EXPECT_TRUE(Eventually([&] { return Knows(1); })) << "a rank still gets through";
  EXPECT_TRUE(losses_.Read().empty());
}

// Rank 0 as a bare socket.
class LinkTest : public ::testing::Test {
 protected:
  LinkTest() : listener_(*Socket::Listen(/*loopback=*/true, &address_.port)) {
    address_.hosts = {"127.0.0.1"};
    address_.greeting = RandomSecret();
    address_.answer = RandomSecret();
    address_.host_name = "head";
    address_.pid = 99;
  }
  FrameConnection Accept() const {
    Socket socket(-1);
    EXPECT_TRUE(Eventually([&] { return (socket = listener_.Accept()).fd() >= 0; }));
    return FrameConnection(std::move(socket));
  }
  // Greets whoever comes first, and gives the connection back.
  FrameConnection Greet(const MonitorSecret& secret) const {
    FrameConnection connection = Accept();
    Frame greeting;
    greeting.type = FrameType::kHello;
    greeting.secret = secret;
    connection.Send(greeting);
    return connection;
  }

  MonitorAddress address_;
  Socket listener_;
  RankActivity activity_;
  Losses losses_;
};

TEST_F(LinkTest, RankZeroThatEndsOrFreezesIsMissed) {
  for (const bool frozen : {false, true}) {
    SCOPED_TRACE(frozen);
    Losses losses;
    std::unique_ptr<FrameConnection> rank_zero;
    std::thread greeter(
        [&] { rank_zero = std::make_unique<FrameConnection>(Greet(address_.greeting)); });
    const auto options = Options(&losses, frozen ? absl::Milliseconds(600) : absl::Seconds(60));
    const auto link = *RankLink::Connect(address_, 1, activity_, options);
    greeter.join();
    EXPECT_TRUE(losses.Read().empty());
    if (!frozen) rank_zero.reset();
    ASSERT_TRUE(losses.Wait(kPatience));
    const LostRank lost = losses.Read()[0];
    EXPECT_EQ(lost.rank, 0);
    EXPECT_EQ(lost.host, "head");
    EXPECT_EQ(lost.pid, 99);
    EXPECT_EQ(lost.how.find(frozen ? "no word" : "its process has ended"), 0u) << lost.how;
  }
}

// A host that has one of rank 0's addresses too is not told the secret.
TEST_F(LinkTest, OnlyRankZeroIsTalkedTo) {
  std::vector<Frame> heard;
  std::thread impostor([&] {
    FrameConnection connection = Greet(RandomSecret());
    EXPECT_TRUE(Eventually([&] { return !connection.Receive(&heard); }));
  });
  const auto link = RankLink::Connect(address_, 1, activity_, Options(&losses_));
  impostor.join();
  EXPECT_TRUE(heard.empty());
  ASSERT_FALSE(link.ok());
  EXPECT_EQ(link.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(link.status().message().find("cannot reach rank 0 on head"), std::string::npos)
      << link.status();
}

TEST_F(LinkTest, AnAddressThatLeadsNowhereIsNotTheLast) {
  address_.hosts = {"127.0.0.77", "127.0.0.1"};  // nobody listens on the first
  Frame hello;
  std::thread greeter([&] {
    FrameConnection connection = Greet(address_.greeting);
    std::vector<Frame> frames;
    EXPECT_TRUE(Eventually([&] { return connection.Receive(&frames) && !frames.empty(); }));
    hello = frames[0];
    connection.Send(Frame{FrameType::kBye});
  });
  const auto link = RankLink::Connect(address_, 5, activity_, Options(&losses_));
  greeter.join();
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(hello.secret, address_.answer);
  EXPECT_EQ(hello.rank, 5);
  EXPECT_EQ(hello.pid, getpid());
  EXPECT_EQ(hello.host, HostName());
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// As the launcher does it: every rank starts a monitor over its control channel, works, leaves.
TEST(RankMonitor, RanksReportAndLeaveWithoutBeingMissed) {
  const ParallelConfig parallel{/*tp_size=*/2, /*pp_size=*/2};
  std::vector<ProcessGroups> world = MakeThreadGroups(parallel);
  RankTable table(parallel);
  Losses losses;
  MonitorOptions options = Options(&losses, absl::Seconds(5));
  absl::Duration beats;
  int num_beats = 0;
  options.on_beat = [&](absl::Duration passed) {
    beats += passed;
    ++num_beats;
    return false;
  };
  const auto play = [&](int rank, absl::Duration stay) {
    const Topology topology(parallel, rank);
    ControlChannel control(topology, world[rank]);
    auto monitor = RankMonitor::Start(topology, control, *world[rank].activity, &table, options);
    ASSERT_TRUE(monitor.ok()) << monitor.status();
    world[rank].activity->BeginStep(100 + rank, 1, 1);
    absl::SleepFor(stay);
  };
  std::vector<std::thread> ranks;
  for (int rank = 1; rank < 4; ++rank) {
    ranks.emplace_back(play, rank, absl::Milliseconds(800 * rank));
  }
  std::thread rank_zero(play, 0, absl::Milliseconds(1600));  // neither the first nor the last
  ASSERT_TRUE(Eventually([&] {
    const auto all = table.Read();
    return std::all_of(all.begin(), all.end(), [](const RankStatus& status) {
      return status.report.step_id == 100u + status.rank && status.pid == getpid() &&
             status.host == HostName();
    });
  }));
  const double cpu = CpuSeconds();
  for (std::thread& rank : ranks) rank.join();
  rank_zero.join();
  EXPECT_LT(CpuSeconds() - cpu, 0.5) << "seconds of a core in two of idling";
  EXPECT_TRUE(losses.Read().empty()) << "rank " << losses.Read()[0].rank;
  EXPECT_GE(num_beats, 3);
  EXPECT_LE(beats, absl::Seconds(10));
}

}  // namespace
}  // namespace polystrate
