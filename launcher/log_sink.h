// LogSink: lines to a file, pipe or terminal, whatever becomes of it. It never blocks: what its
// reader does not take waits in bounded memory, and then is dropped and counted.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace polystrate {

class LogSink {
 public:
  static constexpr size_t kMaxPending = size_t{1} << 20;  // bytes

  LogSink() = default;  // of nothing: takes all and keeps none
  ~LogSink();           // gives a reader that is behind a second for what waits
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;

  // Lines go to standard error.
  void OpenStandardError();
  // Lines are appended to the file. PERMISSION_DENIED and the like when it cannot be.
  absl::Status OpenFile(const std::string& path);

  // Adds the line break. A failed write, as on a full disk, loses the line; the next is tried anew.
  void Write(absl::string_view line);
  // Writes what waits, as far as it goes.
  void Flush();
  // For poll(): -1 unless something waits to be written.
  int fd_to_watch() const { return pending_.empty() ? -1 : fd_; }
  // errno of the last write, 0 when it worked.
  int error() const { return error_; }

 private:
  int fd_ = -1;
  bool owns_fd_ = false;
  std::string pending_;
  int64_t num_dropped_ = 0;
  int error_ = 0;
};

}  // namespace polystrate
