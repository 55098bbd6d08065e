// CoordinatorStats: what a coordinator has done since it started, counted by whichever thread did
// it.
#pragma once

#include <atomic>
#include <cstdint>

namespace polystrate {

struct CoordinatorStats {
  std::atomic<uint64_t> requests{0};     // that were sent to an engine
  std::atomic<uint64_t> refused{0};      // that were not, or that every engine refused
  std::atomic<uint64_t> finished{0};     // whose stream ended whole
  std::atomic<uint64_t> failed{0};       // after acceptance, for whatever reason but the client's
  std::atomic<uint64_t> carried{0};      // times that a request went on with another engine
  std::atomic<uint64_t> quarantined{0};  // requests that ended engines
  std::atomic<uint64_t> tokens{0};       // that went through
};

}  // namespace polystrate
