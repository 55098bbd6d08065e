// SafetensorsWriter: one new safetensors file, written from front to back. What the file holds is
// known up front; the values may come in pieces of any size.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/safetensors.h"

namespace polystrate {

struct NewTensor {
  std::string name;
  std::string dtype;  // as TensorInfo spells it
  std::vector<int64_t> shape;
  int64_t num_bytes = 0;  // what dtype and shape need
};

// Errors are the file system's: RESOURCE_EXHAUSTED for a full disk, the path in the message. A file
// of which Finish() was not reached is worthless; the caller removes it.
class SafetensorsWriter {
 public:
  // Creates the file, which must not exist, and writes the header.
  static absl::StatusOr<SafetensorsWriter> Create(const std::string& path,
                                                  const std::vector<NewTensor>& tensors);

  // The next bytes of the tensors' values, row-major, in the order of `tensors`.
  absl::Status Append(const void* data, int64_t num_bytes);
  // Makes all of it durable. CHECKs that every byte was appended.
  absl::Status Finish();

 private:
  std::string path_;
  FileDescriptor fd_;
  int64_t missing_bytes_ = 0;
};

}  // namespace polystrate
