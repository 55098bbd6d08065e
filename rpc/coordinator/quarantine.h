// Quarantine: a request that kills engines must not kill them all, and a request that was merely
// there must not pay for it.
//
// Whoever is on an engine when it dies gets a strike. A carried request that then makes progress is
// cleared. One with two strikes is a suspect; if it is the only one aboard it is convicted. Where
// there are several, each is tried by itself: an engine takes one suspect at a time, whose next
// death convicts it, and the others wait. So a request ends two engines, or three if it had company
// both times, and no innocent one is lost. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"

namespace polystrate {

class Quarantine {
 public:
  static constexpr int kStrikes = 2;  // make a suspect
  // New tokens that clear a request: more than the few that may have been lost on their way when it
  // struck.
  static constexpr int64_t kClearingTokens = 8;

  // An engine died with these requests on it: those that are convicted.
  std::vector<uint64_t> OnDeath(const std::vector<uint64_t>& aboard);
  // Whether it may go to this engine now. True puts a suspect on trial there, until Leave or Clear.
  bool MayRun(uint64_t request, const std::string& target);
  // It is on that engine no more.
  void Leave(uint64_t request);
  // It has made progress, or has ended. Whether a place is free now for a suspect that waits.
  bool Clear(uint64_t request);

 private:
  struct Record {
    int strikes = 0;
    std::string trial;  // the engine it is tried on; empty: none
  };
  bool EndTrial(Record& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  absl::flat_hash_map<uint64_t, Record> records_ ABSL_GUARDED_BY(mutex_);      // with a strike
  absl::flat_hash_map<std::string, uint64_t> trials_ ABSL_GUARDED_BY(mutex_);  // by target
};

}  // namespace polystrate
