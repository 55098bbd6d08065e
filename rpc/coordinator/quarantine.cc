#include "rpc/coordinator/quarantine.h"

namespace polystrate {

bool Quarantine::EndTrial(Record& record) {
  if (record.trial.empty()) return false;
  trials_.erase(record.trial);
  record.trial.clear();
  return true;
}

std::vector<uint64_t> Quarantine::OnDeath(const std::vector<uint64_t>& aboard) {
  absl::MutexLock lock(&mutex_);
  std::vector<uint64_t> suspects;
  std::vector<uint64_t> convicted;
  for (const uint64_t request : aboard) {
    Record& record = records_[request];
    ++record.strikes;
    const bool tried = EndTrial(record);
    if (record.strikes >= kStrikes) suspects.push_back(request);
    if (tried) convicted.push_back(request);
  }
  if (convicted.empty() && suspects.size() == 1) convicted = suspects;
  return convicted;
}

bool Quarantine::MayRun(uint64_t request, const std::string& target) {
  absl::MutexLock lock(&mutex_);
  const auto found = records_.find(request);
  if (found == records_.end() || found->second.strikes < kStrikes) return true;
  const auto [trial, free] = trials_.try_emplace(target, request);
  if (!free) return trial->second == request;
  found->second.trial = target;
  return true;
}

void Quarantine::Leave(uint64_t request) {
  absl::MutexLock lock(&mutex_);
  const auto found = records_.find(request);
  if (found != records_.end()) EndTrial(found->second);
}

bool Quarantine::Clear(uint64_t request) {
  absl::MutexLock lock(&mutex_);
  const auto found = records_.find(request);
  if (found == records_.end()) return false;
  const bool freed = EndTrial(found->second);
  records_.erase(found);
  return freed;
}

}  // namespace polystrate
