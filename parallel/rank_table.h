// RankTable: what rank 0 knows of every rank: where it runs, what it does, how busy its stage is;
// and which plans are under way. Any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "kernels/core/mutex.h"
#include "parallel/rank_activity.h"
#include "parallel/topology.h"

namespace polystrate {

struct RankStatus {
  int rank = 0;
  int tp_rank = 0;
  int pp_rank = 0;
  std::string host;
  int64_t pid = 0;
  RankReport report;  // as of the rank's last message
  // Time until that message in which a plan was under way, whatever stage it was in.
  absl::Duration in_flight;
  absl::Duration silent;  // time since that message

  absl::Duration busy() const { return absl::Nanoseconds(report.busy_ns); }
  // Time in which the engine had something to do and this stage had not.
  absl::Duration waiting() const;
  // waiting() as a share of `in_flight`, [0, 1]; 0 before the first plan.
  double bubble_share() const;
};

struct PlansUnderWay {
  uint64_t oldest_step_id = 0;
  uint64_t newest_step_id = 0;
  absl::Duration oldest_age;
};

class RankTable {
 public:
  explicit RankTable(const ParallelConfig& parallel);

  // --- Who learns it. ---
  void SetPlace(int rank, const std::string& host, int64_t pid);
  void Update(int rank, const RankReport& report);
  // Results come back in the order of their plans.
  void PlanSent(uint64_t step_id);
  void PlanDone();

  // --- Who asks. ---
  int num_ranks() const { return num_ranks_; }
  std::vector<RankStatus> Read() const;
  RankStatus Read(int rank) const;
  std::optional<PlansUnderWay> plans() const;  // nothing while the engine is idle

 private:
  struct Plan {
    uint64_t step_id;
    int64_t sent_ns;
  };
  int64_t InFlightNs(int64_t now_ns) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  RankStatus ReadLocked(int rank) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int num_ranks_;
  mutable Mutex mutex_;
  std::vector<RankStatus> ranks_ ABSL_GUARDED_BY(mutex_);
  std::vector<int64_t> heard_ns_ ABSL_GUARDED_BY(mutex_);  // of each rank, last
  std::deque<Plan> plans_ ABSL_GUARDED_BY(mutex_);         // oldest first
  int64_t in_flight_ns_ ABSL_GUARDED_BY(mutex_) = 0;       // until in_flight_from_ns_
  int64_t in_flight_from_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // while there are plans
};

}  // namespace polystrate
