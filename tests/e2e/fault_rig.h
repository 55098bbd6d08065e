// Two engines behind a coordinator, under load, to be hurt: who ends is started again, as a
// supervisor would.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "polystrate_coordinator.grpc.pb.h"
#include "tests/e2e/fault_load.h"
#include "tests/e2e/lifecycle.h"
#include "tests/testing/process.h"

namespace polystrate {

// A command that is run again whenever it has ended.
class Supervised {
 public:
  Supervised(std::string address, CommandLine command)
      : address_(std::move(address)),
        command_(std::move(command)),
        process_(std::make_unique<Process>(command_)) {}

  const std::string& address() const { return address_; }  // --listen
  Process& process() { return *process_; }
  int starts() const { return starts_; }
  // To be called now and then.
  void Tend() {
    if (!process_->Wait(absl::ZeroDuration()).has_value()) return;
    if (absl::Now() < started_ + absl::Milliseconds(300)) return;
    process_ = std::make_unique<Process>(command_);
    started_ = absl::Now();
    ++starts_;
  }
  pid_t Rank(int rank) const {
    for (const pid_t pid : ProcessesWith(absl::StrCat("--listen ", address_))) {
      if (RankOf(pid) == rank) return pid;
    }
    ADD_FAILURE() << "no rank " << rank << " of " << address_;
    return -1;
  }
  // The process itself, below whatever starts it elsewhere.
  pid_t Program(const std::string& name) const {
    for (const pid_t pid : ProcessesWith(absl::StrCat("--listen ", address_))) {
      if (ReadFile(absl::StrCat("/proc/", pid, "/comm")) == name + "\n") return pid;
    }
    ADD_FAILURE() << "no " << name << " of " << address_;
    return -1;
  }

 private:
  const std::string address_;
  const CommandLine command_;
  std::unique_ptr<Process> process_;
  absl::Time started_ = absl::Now();
  int starts_ = 1;
};

// One fault, as docs/cluster.md shows it.
struct FaultRow {
  std::string fault;
  int64_t streams = 0;  // live when it struck
  int64_t carried = 0;  // of these, on what it struck
  int64_t lost = 0;
  int64_t wrong = 0;
  std::vector<double> pauses_ms;  // sorted: the longest wait for a token of each carried stream
  std::string first_loss;
  std::string first_wrong;

  void Print() const {
    static const bool header = [] {
      std::printf(
          "| fault | streams | on it | lost | wrong | next token after ms, median | p99 |\n");
      return true;
    }();
    static_cast<void>(header);
    const auto at = [this](double share) {
      if (pauses_ms.empty()) return std::string("-");
      const size_t last = pauses_ms.size() - 1;
      return absl::StrCat(static_cast<int>(pauses_ms[static_cast<size_t>(share * last + 0.5)]));
    };
    std::printf("| %s | %ld | %ld | %ld | %ld | %s | %s |\n", fault.c_str(),
                static_cast<long>(streams), static_cast<long>(carried), static_cast<long>(lost),
                static_cast<long>(wrong), at(0.5).c_str(), at(0.99).c_str());
    std::fflush(stdout);
  }
};

// Of the calls that were under way at `fault`, the `carried` with the longest pauses are those that
// were carried over: the others' engine did not stop.
inline FaultRow Judge(const std::string& name, const std::vector<FaultCall>& calls,
                      absl::Time fault, int64_t carried) {
  FaultRow row;
  row.fault = name;
  for (const FaultCall& call : calls) {
    row.lost += call.finished ? 0 : 1;
    row.wrong += call.wrong.empty() ? 0 : 1;
    if (row.first_wrong.empty() && !call.wrong.empty()) {
      row.first_wrong = absl::StrCat("request ", call.kind, ": ", call.wrong);
    }
    if (!call.finished && row.first_loss.empty()) {
      row.first_loss = absl::StrCat("request ", call.kind, ": ", call.status.error_code(), " ",
                                    call.status.error_message());
    }
    if (call.begin > fault || call.end < fault) continue;
    ++row.streams;
    absl::Duration longest;  // from one token to the next, from what came last before the fault on
    for (size_t i = 1; i < call.tokens.size(); ++i) {
      if (call.tokens[i] < fault) continue;
      longest = std::max(longest, call.tokens[i] - call.tokens[i - 1]);
    }
    if (call.tokens.size() > 1) row.pauses_ms.push_back(absl::ToDoubleMilliseconds(longest));
  }
  std::sort(row.pauses_ms.begin(), row.pauses_ms.end());
  row.carried = std::min<int64_t>(carried, static_cast<int64_t>(row.pauses_ms.size()));
  row.pauses_ms.erase(row.pauses_ms.begin(), row.pauses_ms.end() - row.carried);
  return row;
}

// An engine's or a coordinator's address, and what starts it there.
struct Place {
  std::string address;
  CommandLine command;
};

class FaultRig {
 public:
  // All are SERVING when it returns, else the test has failed. `connect` makes a channel to the
  // coordinator's address.
  FaultRig(const std::vector<Place>& engines, const Place& coordinator,
           const std::function<std::shared_ptr<grpc::Channel>(const std::string&)>& connect)
      : coordinator_(coordinator.address, coordinator.command) {
    for (const Place& place : engines) {
      engines_.push_back(std::make_unique<Supervised>(place.address, place.command));
    }
    EXPECT_TRUE(coordinator_.process().WaitForOutput("listening", kPatience))
        << coordinator_.process().Err();
    channel_ = connect(coordinator.address);
    EXPECT_TRUE(AwaitAllServing());
  }

  Supervised& engine(int i) { return *engines_[i]; }
  Supervised& coordinator() { return coordinator_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Starts again what has ended, while it waits.
  bool Await(const std::function<bool()>& condition, absl::Duration timeout = kPatience) {
    for (const absl::Time end = absl::Now() + timeout; absl::Now() < end;) {
      for (const auto& engine : engines_) engine->Tend();
      coordinator_.Tend();
      if (condition()) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  bool AwaitAllServing(absl::Duration timeout = kPatience) {
    return Await(
        [this] {
          int serving = 0;
          for (const v1::EngineStatus& status : Statuses()) serving += status.serving() ? 1 : 0;
          return serving == static_cast<int>(engines_.size());
        },
        timeout);
  }
  // Empty while the coordinator does not answer.
  std::vector<v1::EngineStatus> Statuses() const {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(2)));
    v1::ListEnginesResponse response;
    if (!v1::Coordinator::NewStub(channel_)->ListEngines(&context, {}, &response).ok()) return {};
    return {response.engines().begin(), response.engines().end()};
  }
  v1::EngineStatus StatusOf(int i) const {
    for (const v1::EngineStatus& status : Statuses()) {
      if (status.target() == engines_[i]->address()) return status;
    }
    return {};
  }

  // What happens to engines, in the middle of a load.
  struct Fault {
    std::string name;
    std::vector<int> victims;
    std::function<void()> hurt;
    std::function<void()> mend = [] {};  // once the engines are seen to be lost
  };
  // Strikes, waits until the victims have been lost and all serve again, and then for the load's
  // end, of which it judges. Nothing may be lost or wrong.
  FaultRow Strike(const Fault& fault, FaultLoad* load) {
    AwaitEvents(load, 300);
    std::vector<uint64_t> lives;
    int64_t carried = 0;
    for (const int victim : fault.victims) {
      const v1::EngineStatus status = StatusOf(victim);
      lives.push_back(Lives(victim, status));
      carried += static_cast<int64_t>(status.streams());
    }
    const absl::Time struck = absl::Now();
    fault.hurt();
    for (size_t i = 0; i < lives.size(); ++i) {
      const int victim = fault.victims[i];
      EXPECT_TRUE(Await([&] { return Lives(victim, StatusOf(victim)) > lives[i]; })) << fault.name;
    }
    fault.mend();
    EXPECT_TRUE(AwaitAllServing()) << fault.name;
    FaultRow row = Judge(fault.name, load->Stop(), struck, carried);
    row.Print();
    EXPECT_EQ(row.lost, 0) << fault.name << ": " << row.first_loss;
    EXPECT_EQ(row.wrong, 0) << fault.name << ": " << row.first_wrong;
    return row;
  }
  // So many more events with tokens.
  void AwaitEvents(FaultLoad* load, int64_t more) {
    const int64_t enough = load->num_events() + more;
    EXPECT_TRUE(Await([&] { return load->num_events() >= enough; }))
        << coordinator_.process().Err();
  }

 private:
  // Grows when an engine has been lost or, drained, was started again.
  uint64_t Lives(int i, const v1::EngineStatus& status) const {
    return status.times_lost() + static_cast<uint64_t>(engines_[i]->starts());
  }

  std::vector<std::unique_ptr<Supervised>> engines_;
  Supervised coordinator_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace polystrate
