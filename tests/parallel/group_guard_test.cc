// A group over GPUs that fails, told by a group that only says so.

#include "parallel/group_guard.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/testing/silent_group.h"

namespace polystrate {
namespace {

// What happened, in its order.
class Record {
 public:
  void Add(const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    events_.push_back(what);
  }
  std::vector<std::string> Read() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return events_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> events_;
};

// Of one rank; well until it is told otherwise.
class SickGroup final : public SilentGroup {
 public:
  SickGroup(const std::string& name, Record* record) : name_(name), record_(*record) {}
  absl::Status Health() override {
    return sick_ ? absl::UnavailableError(name_ + " has failed") : absl::OkStatus();
  }
  void Abort() override { record_.Add("abort " + name_); }

  void Fail() { sick_ = true; }

 private:
  const std::string name_;
  Record& record_;
  std::atomic<bool> sick_{false};
};

class GroupGuardTest : public ::testing::Test {
 protected:
  GroupGuardTest() {
    groups_ = MakeSelfGroups();
    auto tp = std::make_unique<SickGroup>("tp", &record_);
    auto pp = std::make_unique<SickGroup>("pp", &record_);
    tp_ = tp.get();
    pp_ = pp.get();
    groups_.tp = std::move(tp);
    groups_.pp = std::move(pp);
  }
  std::unique_ptr<GroupGuard> Guard() {
    return std::make_unique<GroupGuard>(
        groups_, [this](const absl::Status& fault) { record_.Add(std::string(fault.message())); },
        [this] {
          record_.Add("end");
          ended_.set_value();
        });
  }
  bool Ends(absl::Duration timeout) {
    return ended_.get_future().wait_for(absl::ToChronoSeconds(timeout)) ==
           std::future_status::ready;
  }

  Record record_;
  ProcessGroups groups_;
  SickGroup* tp_ = nullptr;
  SickGroup* pp_ = nullptr;
  std::promise<void> ended_;
};

TEST_F(GroupGuardTest, LeavesWellGroupsAlone) {
  {
    const auto guard = Guard();
    absl::SleepFor(absl::Milliseconds(300));
  }
  EXPECT_TRUE(record_.Read().empty());
}

TEST_F(GroupGuardTest, TellsThenAbortsThenEnds) {
  const auto guard = Guard();
  pp_->Fail();
  ASSERT_TRUE(Ends(absl::Seconds(10)));
  EXPECT_EQ(record_.Read(),
            (std::vector<std::string>{"pp has failed", "abort tp", "abort pp", "end"}));
}

TEST_F(GroupGuardTest, NothingLeavesTheRankAfterwards) {
  const auto guard = Guard();
  SendBytes(*groups_.tokens, {1}, 0);
  tp_->Fail();
  ASSERT_TRUE(Ends(absl::Seconds(10)));
  // The thread stays in there for good, as main threads do until the process ends.
  auto sent = std::make_shared<std::atomic<bool>>(false);
  std::thread([sent, groups = std::make_shared<ProcessGroups>(std::move(groups_))] {
    SendBytes(*groups->tokens, {2}, 0);
    *sent = true;
  }).detach();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_FALSE(*sent);
}

}  // namespace
}  // namespace polystrate
