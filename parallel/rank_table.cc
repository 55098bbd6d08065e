#include "parallel/rank_table.h"

#include <algorithm>
#include <chrono>

#include "kernels/core/check.h"

namespace polystrate {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

absl::Duration RankStatus::waiting() const {
  return std::max(in_flight - busy(), absl::ZeroDuration());
}

double RankStatus::bubble_share() const {
  if (in_flight <= absl::ZeroDuration()) return 0.0;
  return absl::FDivDuration(waiting(), in_flight);
}

RankTable::RankTable(const ParallelConfig& parallel)
    : num_ranks_(parallel.world_size()),
      ranks_(parallel.world_size()),
      heard_ns_(parallel.world_size(), NowNs()) {
  for (int rank = 0; rank < parallel.world_size(); ++rank) {
    const Topology topology(parallel, rank);
    ranks_[rank].rank = rank;
    ranks_[rank].tp_rank = topology.tp_rank();
    ranks_[rank].pp_rank = topology.pp_rank();
  }
}

void RankTable::SetPlace(int rank, const std::string& host, int64_t pid) {
  MutexLock lock(&mutex_);
  ranks_[rank].host = host;
  ranks_[rank].pid = pid;
}

void RankTable::Update(int rank, const RankReport& report) {
  MutexLock lock(&mutex_);
  ranks_[rank].report = report;
  heard_ns_[rank] = NowNs();
  ranks_[rank].in_flight = absl::Nanoseconds(InFlightNs(heard_ns_[rank]));
}

void RankTable::PlanSent(uint64_t step_id) {
  MutexLock lock(&mutex_);
  const int64_t now_ns = NowNs();
  if (plans_.empty()) in_flight_from_ns_ = now_ns;
  plans_.push_back({step_id, now_ns});
}

void RankTable::PlanDone() {
  MutexLock lock(&mutex_);
  CHECK(!plans_.empty());
  plans_.pop_front();
  if (plans_.empty()) in_flight_ns_ += NowNs() - in_flight_from_ns_;
}

int64_t RankTable::InFlightNs(int64_t now_ns) const {
  return in_flight_ns_ + (plans_.empty() ? 0 : now_ns - in_flight_from_ns_);
}

RankStatus RankTable::ReadLocked(int rank) const {
  RankStatus status = ranks_[rank];
  status.silent = absl::Nanoseconds(NowNs() - heard_ns_[rank]);
  return status;
}

std::vector<RankStatus> RankTable::Read() const {
  MutexLock lock(&mutex_);
  std::vector<RankStatus> ranks;
  for (int rank = 0; rank < num_ranks_; ++rank) ranks.push_back(ReadLocked(rank));
  return ranks;
}

RankStatus RankTable::Read(int rank) const {
  MutexLock lock(&mutex_);
  return ReadLocked(rank);
}

std::optional<PlansUnderWay> RankTable::plans() const {
  MutexLock lock(&mutex_);
  if (plans_.empty()) return std::nullopt;
  return PlansUnderWay{plans_.front().step_id, plans_.back().step_id,
                       absl::Nanoseconds(NowNs() - plans_.front().sent_ns)};
}

}  // namespace polystrate
