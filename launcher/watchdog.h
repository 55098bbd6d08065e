// Watchdog: rank 0's judgement of what the RankMonitor sees. A step that takes too long makes the
// engine DEGRADED and is described on standard error; one that takes far too long, a lost rank or a
// drain that does not end means that the engine is lost: every stream is ended, the culprit named,
// the job aborted. Nothing of this needs rank 0's main thread, which may be stuck.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "kernels/core/mutex.h"
#include "parallel/monitor_options.h"
#include "parallel/rank_table.h"

namespace polystrate {

// Exit code of an engine that is lost: not the operator's mistake, and worth a new start.
inline constexpr int kExitEngineLost = 75;

struct WatchdogOptions {
  absl::Duration soft = absl::Seconds(30);   // a step longer than this degrades the engine,
  absl::Duration hard = absl::Seconds(300);  // one longer than this loses it
};

class Watchdog {
 public:
  // `end_streams` ends every stream with the status, and returns soon. `engine` must outlive the
  // watchdog.
  Watchdog(Engine& engine, const WatchdogOptions& options,
           std::function<void(const absl::Status&)> end_streams);

  // --- The monitor's thread (MonitorOptions). ---
  bool OnBeat(absl::Duration passed);
  void OnLost(const LostRank& lost);
  [[noreturn]] void OnEnd();

  // --- Any thread. ---
  // The launcher is killing the ranks: it has found one dead, or was told to end.
  void OnLauncherKills() { launcher_kills_ = true; }
  // A group of this rank's has failed (GroupGuard).
  void OnGroupFault(const absl::Status& fault);
  bool engine_is_lost() const { return lost_; }

 private:
  void WatchStep(absl::Duration passed);
  void WatchDrain(absl::Duration passed);
  void WatchGroups();
  void SetDegraded(bool degraded);
  std::string InWords(const RankStatus& status) const;
  std::string Culprit() const;
  // The engine is lost. The first reason counts.
  void Condemn(const std::string& why);

  Engine& engine_;
  const WatchdogOptions options_;
  const std::function<void(const absl::Status&)> end_streams_;
  std::atomic<bool> launcher_kills_{false};
  std::atomic<bool> lost_{false};
  Mutex mutex_;
  absl::Status group_fault_ ABSL_GUARDED_BY(mutex_);
  // Only the monitor's thread.
  std::string why_;
  std::optional<uint64_t> step_id_;
  absl::Duration step_age_;
  bool degraded_ = false;
  absl::Duration overdue_;  // that the drain is past its deadline
};

}  // namespace polystrate
