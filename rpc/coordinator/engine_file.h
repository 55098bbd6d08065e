// EngineFile: a list of engines that an operator edits while it is in use. HOST:PORT a line; #
// begins a comment.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/watched_file.h"

namespace polystrate {

class EngineFile {
 public:
  explicit EngineFile(const std::string& path) : file_(path) {}

  bool Changed() const { return file_.Changed(); }  // since the last Read(): one stat()

  // Each target once, in order. Errors name the file, and the line if it is a line's fault.
  absl::StatusOr<std::vector<std::string>> Read();

 private:
  WatchedFile file_;
};

}  // namespace polystrate
