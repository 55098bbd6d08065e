// TensorBuilder: the values of a converted checkpoint's tensors, piece by piece.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint.h"
#include "engine/conversion_plan.h"
#include "engine/tensor_reader.h"

namespace polystrate {

// Holds a few buffers of a megabyte (of a row, where that is more), whatever the size of the model.
class TensorBuilder {
 public:
  using Append = std::function<absl::Status(const void* data, int64_t num_bytes)>;

  // `checkpoint`, the one that was planned for, must outlive the builder.
  TensorBuilder(const Checkpoint& checkpoint, Pooling pooling);

  // Hands the bytes of `tensor` to `append`, from front to back; its first error ends it. DATA_LOSS
  // when the checkpoint cannot be read.
  absl::Status Build(const OutputTensor& tensor, const Append& append);

 private:
  absl::Status Copy(const OutputTensor& tensor, const Append& append);
  // The part of `block` that lies in rows [first, first + num_rows) of the tensor, into bytes_,
  // which holds these rows.
  absl::Status BuildRows(const OutputTensor& tensor, const OutputBlock& block, int64_t first,
                         int64_t num_rows);
  absl::Status CopyRows(const OutputTensor& tensor, const OutputBlock& block, int64_t begin,
                        int64_t end, uint8_t* dst);
  // Rows [begin, end) of the block, pooled, into pooled_.
  absl::Status PoolSequential(const OutputBlock& block, const std::string& dtype, int64_t begin,
                              int64_t end);
  absl::Status PoolMean(const OutputBlock& block, int64_t begin, int64_t end);
  absl::Status AddTo(std::vector<float>* sum, const StoredOrigin& origin, const OutputBlock& block,
                     int64_t begin, int64_t end);

  const Checkpoint& checkpoint_;
  const Pooling pooling_;
  TensorReader reader_;
  std::vector<uint8_t> bytes_;
  std::vector<float> pooled_, heads_, one_;
};

}  // namespace polystrate
