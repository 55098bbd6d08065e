// What this process has resident, by the system's own account.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace polystrate {

// Bytes of memory that are mapped and present now (Rss of /proc/self/smaps_rollup). UNIMPLEMENTED
// where the system does not say.
absl::StatusOr<int64_t> ResidentBytes();

// Bytes that could be taken now without swapping (MemAvailable of /proc/meminfo). UNIMPLEMENTED, as
// above.
absl::StatusOr<int64_t> AvailableBytes();

}  // namespace polystrate
