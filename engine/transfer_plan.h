// TransferPlan: which blocks of a checkpoint go into which tensors of a rank. All is planned first,
// which costs nothing and so finds every missing or misshapen tensor before memory is taken or data
// is read; then all memory is taken at once and filled.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/tensor_reader.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

class TransferPlan {
 public:
  // `tensor`, which must stay where it is, gets zeroed memory of these dimensions, one or two.
  void Place(DType dtype, std::vector<int64_t> dims, Tensor* tensor);
  // `block` of the tensor `name`, which must be of `stored_shape`, goes to the rows of `dst` from
  // `dst_row` on. `dst` is a placed tensor.
  void Read(std::string name, std::vector<int64_t> stored_shape, const Block& block,
            const Tensor& dst, int64_t dst_row = 0);

  // Of all that was placed.
  int64_t num_bytes() const { return num_bytes_; }

  // That every tensor to be read is there as it should be. Errors as LoadStageWeights gives them
  // (engine/weights.h).
  absl::Status Check(const Checkpoint& checkpoint) const;

  // Checks every tensor to be read, takes the memory and reads. The buffer owns what was placed.
  // Errors as LoadStageWeights gives them, whose `progress` this is.
  absl::StatusOr<Buffer> Execute(const Checkpoint& checkpoint, Device device,
                                 const std::function<void(double)>& progress) const;
  // The same without a checkpoint, from engine/dummy_weights.h.
  absl::StatusOr<Buffer> ExecuteDummy(Device device,
                                      const std::function<void(double)>& progress) const;

 private:
  struct Placement {
    Tensor* tensor;
    DType dtype;
    std::vector<int64_t> dims;
    int64_t offset;  // bytes
  };
  struct Transfer {
    std::string name;
    std::vector<int64_t> stored_shape;
    Block block;
    const Tensor* dst;
    int64_t dst_row;
  };

  // Puts a transfer's rows into a host tensor.
  using FillRows = std::function<absl::Status(const Transfer&, const Tensor& dst)>;

  absl::StatusOr<Buffer> Fill(Device device, const std::function<void(double)>& progress,
                              const FillRows& fill) const;
  // The same for a tensor on a GPU, `staging`'s size at a time.
  static absl::Status FillThroughHost(const Transfer& transfer, const Tensor& dst,
                                      const Buffer& staging, const FillRows& fill);

  std::vector<Placement> placements_;
  std::vector<Transfer> transfers_;
  int64_t num_bytes_ = 0;
};

}  // namespace polystrate
