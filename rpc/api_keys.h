// API keys: what a file of them holds, and the server's check of what a client shows.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "rpc/watched_file.h"

namespace polystrate {

// One key per line; blank lines and those that begin with # do not count. A key is 16 to 512
// characters of printable ASCII without spaces. INVALID_ARGUMENT names file and line, never what it
// says; also when there is no key at all.
absl::StatusOr<std::vector<std::string>> ReadApiKeys(WatchedFile& file);

class ApiKeys {
 public:
  // Warns on standard error when every user of this machine may read the file.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Create(const std::string& path);

  // Whether `key` is in the file as it is now; if that cannot be read, as it was. Takes the same
  // time for every wrong key. Any thread.
  bool Accepts(absl::string_view key);

 private:
  using Digest = std::array<unsigned char, 32>;

  explicit ApiKeys(const std::string& path) : file_(path) {}
  static Digest DigestOf(absl::string_view key);
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  WatchedFile file_ ABSL_GUARDED_BY(mutex_);
  // The keys themselves are not kept: equal length, and nothing for a core dump to tell.
  std::vector<Digest> digests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
