#include "launcher/process_memory.h"

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

// `key` of a file of "Key:   12345 kB" lines, in bytes.
absl::StatusOr<int64_t> ReadKilobytes(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == key + ":" && file >> kib) return kib * 1024;
  }
  return absl::UnimplementedError(
      absl::StrCat(path, " has no ", key, "; memory cannot be measured here"));
}

}  // namespace

// Not /proc/self/statm: its counts lag behind by what each thread has not added yet.
absl::StatusOr<int64_t> ResidentBytes() { return ReadKilobytes("/proc/self/smaps_rollup", "Rss"); }

absl::StatusOr<int64_t> AvailableBytes() { return ReadKilobytes("/proc/meminfo", "MemAvailable"); }

}  // namespace polystrate
