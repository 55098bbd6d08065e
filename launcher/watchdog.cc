#include "launcher/watchdog.h"

#include <cstdio>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/retry_delay.h"
#include "launcher/culprit.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

// How long after its time-out a drain may still take: the step under way.
constexpr absl::Duration kDrainGrace = absl::Seconds(30);

// The word of an engine that leaves in order: the request may be sent to another.
constexpr absl::Duration kElsewhere = absl::Seconds(1);

// The engine ends within this time, even if its streams do not.
constexpr absl::Duration kEndTakes = absl::Seconds(4);

}  // namespace

Watchdog::Watchdog(Engine& engine, const WatchdogOptions& options,
                   std::function<void(const absl::Status&)> end_streams)
    : engine_(engine), options_(options), end_streams_(std::move(end_streams)) {}

bool Watchdog::OnBeat(absl::Duration passed) {
  WatchStep(passed);
  WatchDrain(passed);
  WatchGroups();
  if (launcher_kills_) {
    Condemn(
        "mpirun ends the job: a rank is dead, or mpirun got SIGTERM itself (to drain: SIGUSR1 at "
        "mpirun, SIGTERM at rank 0, or Drain)");
  }
  return lost_;
}

// Ages are sums of beats: a job that is stopped and continued as a whole has not hung.
void Watchdog::WatchStep(absl::Duration passed) {
  const std::optional<PlansUnderWay> plans = engine_.ranks().plans();
  const auto step_id = plans.has_value() ? std::optional(plans->oldest_step_id) : std::nullopt;
  if (step_id != step_id_) {
    if (degraded_) {
      std::fprintf(stderr, "serve: step %llu is done after %s; no longer DEGRADED\n",
                   static_cast<unsigned long long>(*step_id_),
                   absl::FormatDuration(step_age_).c_str());
      SetDegraded(false);
    }
    step_id_ = step_id;
    step_age_ = absl::ZeroDuration();
    return;
  }
  if (!step_id.has_value()) return;
  step_age_ += passed;
  if (step_age_ >= options_.soft && !degraded_) {
    std::fprintf(stderr, "serve: step %llu takes longer than --watchdog_soft %s; DEGRADED\n",
                 static_cast<unsigned long long>(*step_id),
                 absl::FormatDuration(options_.soft).c_str());
    for (const RankStatus& rank : engine_.ranks().Read()) {
      std::fprintf(stderr, "serve:   %s\n", InWords(rank).c_str());
    }
    SetDegraded(true);
  }
  if (step_age_ >= options_.hard) {
    Condemn(absl::StrCat("step ", *step_id, " takes longer than --watchdog_hard ",
                         absl::FormatDuration(options_.hard), "; ", Culprit()));
  }
}

// An engine that starts cannot end before it has started, however long ago it was told to.
void Watchdog::WatchDrain(absl::Duration passed) {
  if (engine_.state() == EngineState::kStarting || absl::Now() < engine_.drain_deadline()) return;
  if (overdue_ == absl::ZeroDuration()) {
    // The engine's thread does so too, but not before the step under way is done.
    engine_.FailAll(
        WithRetryDelay(absl::UnavailableError("the engine is shutting down"), kElsewhere));
  }
  overdue_ += passed;
  if (overdue_ >= kDrainGrace) Condemn("the drain does not end; " + Culprit());
}

void Watchdog::OnGroupFault(const absl::Status& fault) {
  MutexLock lock(&mutex_);
  group_fault_ = fault;
}

void Watchdog::WatchGroups() {
  MutexLock lock(&mutex_);
  if (!group_fault_.ok()) Condemn("rank 0: " + std::string(group_fault_.message()));
}

std::string Watchdog::InWords(const RankStatus& status) const {
  return Describe(status, engine_.options().parallel.pp_size);
}

std::string Watchdog::Culprit() const {
  const std::vector<RankStatus> ranks = engine_.ranks().Read();
  return "the culprit is " + InWords(ranks[FindCulprit(ranks, engine_.ranks().plans())]);
}

void Watchdog::SetDegraded(bool degraded) {
  degraded_ = degraded;
  engine_.SetDegraded(degraded);
}

void Watchdog::OnLost(const LostRank& lost) {
  Condemn(absl::StrCat("lost ", InWords(engine_.ranks().Read(lost.rank)), "; ", lost.how));
}

void Watchdog::Condemn(const std::string& why) {
  if (lost_.exchange(true)) return;
  why_ = why;
  std::fprintf(stderr, "serve: %s\n", why.c_str());
}

void Watchdog::OnEnd() {
  std::thread([] {
    absl::SleepFor(kEndTakes);
    AbortJob(kExitEngineLost);
  }).detach();
  end_streams_(absl::UnavailableError("the engine is lost: " + why_));
  std::fprintf(stderr, "serve: the engine is lost; exit code %d\n", kExitEngineLost);
  AbortJob(kExitEngineLost);
}

}  // namespace polystrate
