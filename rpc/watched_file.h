// WatchedFile: a small file of certificates or keys that an operator may replace while it is in
// use.
#pragma once

#include <sys/stat.h>

#include <string>

#include "absl/status/statusor.h"

namespace polystrate {

class WatchedFile {
 public:
  explicit WatchedFile(std::string path) : path_(std::move(path)) {}
  const std::string& path() const { return path_; }

  // True when the file is another than the last Read() found, gone or back: one stat().
  bool Changed() const;

  // The whole file, at most 1 MiB. NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT names it. What
  // is written while it is read counts as a change.
  absl::StatusOr<std::string> Read();

  // As the last Read() found it: anyone on this machine may read what should be a secret.
  bool readable_by_all() const { return (seen_.st_mode & S_IROTH) != 0; }

 private:
  const std::string path_;
  struct stat seen_ = {};  // all zero: there was none
};

}  // namespace polystrate
