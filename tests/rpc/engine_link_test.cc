// What of an EngineLink depends on time, with a clock that the test sets.
#include "rpc/coordinator/engine_link.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "tests/rpc/fake_engine.h"
#include "tests/testing/within.h"

namespace polystrate {
namespace {

constexpr absl::Duration kNone = absl::ZeroDuration();

class EngineLinkTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Never destroyed: links want a server that outlives them.
    static const auto* const outliving = new FakeEngine();
    EXPECT_NE(outliving->port(), 0);
  }
  ~EngineLinkTest() override {
    link_->Close();
    link_->WaitUntilIdle();
  }

  void Make(const std::string& target) {
    link_ = std::make_shared<EngineLink>(
        target, EngineLinkOptions{Connector(), absl::Milliseconds(10), absl::Seconds(5), [] {}});
  }

  std::shared_ptr<EngineLink> link_;
};

TEST_F(EngineLinkTest, SilenceIsTheEnginesOwn) {
  FakeEngine engine;
  Make(engine.target());
  ASSERT_TRUE(Within(kLong, [&] {
    link_->Advance(absl::Now(), kNone);
    return link_->serving();
  }));
  engine.SetSilent(true);
  absl::SleepFor(absl::Milliseconds(100));
  const absl::Time now = absl::Now();
  EXPECT_FALSE(link_->Advance(now + absl::Seconds(4), kNone).lost);
  // This process was stopped for a minute: nobody could be heard.
  EXPECT_FALSE(link_->Advance(now + absl::Seconds(64), absl::Seconds(60)).lost);
  EXPECT_TRUE(link_->serving());
  EXPECT_TRUE(link_->Advance(now + absl::Seconds(70), kNone).lost);
  EXPECT_FALSE(link_->serving());
  EXPECT_EQ(link_->Read().status.times_lost(), 1u);
  engine.SetSilent(false);
}

TEST_F(EngineLinkTest, TriesLessOftenTheLongerItIsGone) {
  Make("127.0.0.1:1");
  absl::Time now = absl::Now();
  double expected = 0.1;
  for (int attempt = 0; attempt < 9; ++attempt) {
    link_->Advance(now, kNone);
    ASSERT_TRUE(Within(kLong, [&] { return link_->idle(); })) << "refused";
    const absl::Time next = link_->Advance(now, kNone).next;
    const double backoff = absl::ToDoubleSeconds(next - absl::Now());
    EXPECT_GT(backoff, 0.75 * expected - 0.1) << attempt;
    EXPECT_LT(backoff, 1.21 * expected) << attempt;
    expected = std::min(2 * expected, 5.0);
    now = next;
  }
  EXPECT_FALSE(link_->serving());
  EXPECT_EQ(link_->Read().status.problem().find("not reached: "), 0u);
}

// Who answers, but NOT_SERVING, is not tried again and again.
TEST_F(EngineLinkTest, WaitsForAnEngineThatStarts) {
  FakeEngine engine;
  engine.SetServing(false);
  Make(engine.target());
  ASSERT_TRUE(Within(kLong, [&] {
    link_->Advance(absl::Now(), kNone);
    return link_->Read().status.problem() == "it says NOT_SERVING as yet";
  }));
  EXPECT_EQ(link_->model(), "tiny");
  engine.SetServing(true);
  bool told = false;
  ASSERT_TRUE(Within(absl::Seconds(2), [&] {
    told = link_->Advance(absl::Now(), kNone).serving || told;
    return told;
  })) << "by its watch, without a new connection";
}

}  // namespace
}  // namespace polystrate
