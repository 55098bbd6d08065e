#include "engine/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
constexpr int64_t kLengthBytes = 8;               // header length, little-endian

absl::Status ReadAt(int fd, const std::string& path, int64_t offset, int64_t num_bytes, void* dst) {
  auto* to = static_cast<char*>(dst);
  while (num_bytes > 0) {
    // Linux transfers at most 2 GiB a call.
    const auto count = static_cast<size_t>(std::min<int64_t>(num_bytes, int64_t{1} << 30));
    const ssize_t got = pread(fd, to, count, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return absl::DataLossError(
          absl::StrCat(path, ": ", absl::ErrnoToStatus(errno, "").message()));
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path, ": ends at byte ", offset, " where ", num_bytes,
                                              " more were expected; it changed while being read"));
    }
    to += got;
    offset += got;
    num_bytes -= got;
  }
  return absl::OkStatus();
}

}  // namespace

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile file;
  file.path_ = path;
  // O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
  file.fd_ = FileDescriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  const int fd = file.fd_.get();
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat stat_buffer;
  if (fstat(fd, &stat_buffer) != 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  const auto error = [&path](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (!S_ISREG(stat_buffer.st_mode)) return error("is not a regular file");
  const int64_t file_bytes = stat_buffer.st_size;
  if (file_bytes < kLengthBytes) {
    return error(
        absl::StrCat("has ", file_bytes, " bytes; a safetensors file has at least ", kLengthBytes));
  }
  uint8_t length[kLengthBytes];
  RETURN_IF_ERROR(ReadAt(fd, path, 0, kLengthBytes, length));
  uint64_t header_bytes = 0;
  for (int i = kLengthBytes - 1; i >= 0; --i) header_bytes = header_bytes << 8 | length[i];
  if (header_bytes > kMaxHeaderBytes) {
    return error(absl::StrCat("states a header of ", header_bytes, " bytes; the format allows ",
                              kMaxHeaderBytes, ". Is it a safetensors file?"));
  }
  file.data_begin_ = kLengthBytes + static_cast<int64_t>(header_bytes);
  if (file.data_begin_ > file_bytes) {
    return error(absl::StrCat("states a header of ", header_bytes, " bytes but has only ",
                              file_bytes, " in all: it is cut short or not a safetensors file"));
  }
  std::string header(header_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(fd, path, kLengthBytes, file.data_begin_ - kLengthBytes, header.data()));
  auto tensors = ParseSafetensorsHeader(header, file_bytes - file.data_begin_);
  if (!tensors.ok()) return error(tensors.status().message());
  file.tensors_ = *std::move(tensors);
  return file;
}

const TensorInfo* SafetensorsFile::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::Status SafetensorsFile::ReadBytes(const TensorInfo& tensor, int64_t offset, int64_t num_bytes,
                                        void* dst) const {
  CHECK(offset >= 0 && num_bytes >= 0 && offset <= tensor.end - tensor.begin - num_bytes);
  return ReadAt(fd_.get(), path_, data_begin_ + tensor.begin + offset, num_bytes, dst);
}

}  // namespace polystrate
