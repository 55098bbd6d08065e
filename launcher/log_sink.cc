#include "launcher/log_sink.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace polystrate {

LogSink::~LogSink() {
  constexpr int kTries = 100;
  constexpr int kTryMs = 10;
  for (int i = 0; i < kTries && !pending_.empty(); ++i) {
    pollfd ready = {fd_, POLLOUT, 0};
    poll(&ready, 1, kTryMs);
    Flush();
  }
  if (owns_fd_) close(fd_);
}

void LogSink::OpenStandardError() {
  fd_ = STDERR_FILENO;
  struct stat info = {};
  if (fstat(fd_, &info) != 0 || !(S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) return;
  // Not blocking, without that whoever else has the pipe or terminal open sees any of it.
  const int own = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (own < 0) return;  // a socket; Flush() asks before it writes
  fd_ = own;
  owns_fd_ = true;
}

absl::Status LogSink::OpenFile(const std::string& path) {
  fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) {
    return absl::InvalidArgumentError(absl::StrCat("cannot write ", path, ": ", strerror(errno)));
  }
  owns_fd_ = true;
  return absl::OkStatus();
}

void LogSink::Write(absl::string_view line) {
  if (fd_ < 0) return;
  if (pending_.size() + line.size() >= kMaxPending) Flush();
  if (pending_.size() + line.size() >= kMaxPending) {
    ++num_dropped_;
    return;
  }
  if (num_dropped_ > 0) {
    absl::StrAppend(&pending_, "launch: ", std::exchange(num_dropped_, 0),
                    " lines were dropped here: whoever reads this is too slow\n");
  }
  absl::StrAppend(&pending_, line, "\n");
  Flush();
}

void LogSink::Flush() {
  while (!pending_.empty()) {
    pollfd ready = {fd_, POLLOUT, 0};
    if (poll(&ready, 1, 0) == 0) return;
    // A pipe that is ready takes PIPE_BUF bytes without blocking.
    const size_t size = std::min<size_t>(pending_.size(), PIPE_BUF);
    const ssize_t written = write(fd_, pending_.data(), size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) return;
    error_ = written < 0 ? errno : 0;
    if (written < 0) return pending_.clear();
    pending_.erase(0, written);
  }
}

}  // namespace polystrate
