#include "launcher/process_memory.h"

#include <fstream>
#include <string>

#include "absl/status/status.h"

namespace polystrate {

// Not /proc/self/statm: its counts lag behind by what each thread has not added yet.
absl::StatusOr<int64_t> ResidentBytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == "Rss:" && file >> kib) return kib * 1024;
  }
  return absl::UnimplementedError(
      "/proc/self/smaps_rollup has no Rss; resident memory cannot be measured here");
}

}  // namespace polystrate
