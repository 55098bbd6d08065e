// SafetensorsFile: one open safetensors file. Read with pread, never mapped: what a process holds
// of a checkpoint is then what it asked for, and a file cut short under it is an error, not SIGBUS.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/safetensors_header.h"

namespace polystrate {

// An open file descriptor; closes it. Move-only.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int get() const { return fd_; }

 private:
  int fd_;
};

// Const after Open; any thread may read.
class SafetensorsFile {
 public:
  // Reads the header and nothing else. NOT_FOUND when there is no such file; INVALID_ARGUMENT names
  // the file and the fault. Takes memory in proportion to the header, which is at most 100 MB.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const TensorMap& tensors() const { return tensors_; }
  // nullptr when the file has no such tensor. Stays valid when this object is moved.
  const TensorInfo* Find(const std::string& name) const;

  // Copies bytes [offset, offset + num_bytes) of a tensor of this file to `dst`. DATA_LOSS when the
  // file has become shorter or cannot be read.
  absl::Status ReadBytes(const TensorInfo& tensor, int64_t offset, int64_t num_bytes,
                         void* dst) const;

 private:
  std::string path_;
  FileDescriptor fd_;
  int64_t data_begin_ = 0;  // where in the file the data starts
  TensorMap tensors_;
};

}  // namespace polystrate
