// TensorReader: copies rectangles of stored weights into tensors of the engine's dtype.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint.h"
#include "kernels/core/tensor.h"

namespace polystrate {

// Rows and columns of a stored matrix; a stored vector is a matrix of one column.
struct Block {
  int64_t row_begin = 0;
  int64_t num_rows = 0;
  int64_t column_begin = 0;
  int64_t num_columns = 1;
};

class TensorReader {
 public:
  // `checkpoint` must outlive the reader.
  explicit TensorReader(const Checkpoint& checkpoint);

  // That `name` can be read as a weight of `shape`. NOT_FOUND: there is no such tensor.
  // INVALID_ARGUMENT: it is not stored as F32, F16 or BF16, or has another shape; the message gives
  // both.
  absl::Status Check(const std::string& name, const std::vector<int64_t>& shape) const;

  // Reads `block` of the tensor `name` into the first num_rows rows and num_columns columns of
  // `dst`, a host tensor of float32, bfloat16 or float16, [rows, columns] or [rows]; the rest of
  // dst is left as it is. Reads nothing outside the block, and holds a staging buffer of a fixed
  // size besides. Narrowing rounds to nearest even; every widening is exact. CHECKs that the tensor
  // exists and that its dtype is one Check lets pass.
  absl::Status Read(const std::string& name, const Block& block, const Tensor& dst);

 private:
  // `count` adjacent stored elements from element `from` on, to adjacent ones at dst.raw().
  absl::Status ReadRun(const Checkpoint::Entry& entry, int64_t from, int64_t count,
                       const Tensor& dst);

  const Checkpoint& checkpoint_;
  std::vector<uint8_t> staging_;
};

}  // namespace polystrate
