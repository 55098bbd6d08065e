#include "rpc/watched_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

constexpr size_t kMaxBytes = 1 << 20;

struct stat StatOf(const std::string& path) {
  struct stat found = {};
  if (stat(path.c_str(), &found) != 0) found = {};
  return found;
}

bool SameTime(const timespec& a, const timespec& b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

absl::Status OpenError(const std::string& path, int error) {
  const std::string message = absl::StrCat(path, ": ", strerror(error));
  if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
  return absl::InvalidArgumentError(message);
}

}  // namespace

bool WatchedFile::Changed() const {
  const struct stat now = StatOf(path_);
  return now.st_dev != seen_.st_dev || now.st_ino != seen_.st_ino || now.st_size != seen_.st_size ||
         !SameTime(now.st_mtim, seen_.st_mtim) || !SameTime(now.st_ctim, seen_.st_ctim);
}

absl::StatusOr<std::string> WatchedFile::Read() {
  seen_ = StatOf(path_);
  if (seen_.st_ino != 0 && !S_ISREG(seen_.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": is no file"));
  }
  errno = 0;
  std::ifstream file(path_, std::ios::binary);
  if (!file) return OpenError(path_, errno);
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return OpenError(path_, errno);
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() <= kMaxBytes) return text;
  return absl::InvalidArgumentError(absl::StrCat(path_, ": is above 1 MiB"));
}

}  // namespace polystrate
