#include "engine/transfer_plan.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engine/dummy_weights.h"
#include "kernels/core/copy.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int64_t kTensorAlignment = 64;  // bytes: a cache line, a vector register

// Holds many rows of any matrix, so that copies to a GPU are long.
constexpr int64_t kStagingBytes = int64_t{64} << 20;

}  // namespace

void TransferPlan::Place(DType dtype, std::vector<int64_t> dims, Tensor* tensor) {
  int64_t bytes = SizeOf(dtype);
  for (const int64_t dim : dims) bytes *= dim;
  placements_.push_back({tensor, dtype, std::move(dims), num_bytes_});
  num_bytes_ += (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

void TransferPlan::Read(std::string name, std::vector<int64_t> stored_shape, const Block& block,
                        const Tensor& dst, int64_t dst_row) {
  transfers_.push_back({std::move(name), std::move(stored_shape), block, &dst, dst_row});
}

absl::Status TransferPlan::Check(const Checkpoint& checkpoint) const {
  const TensorReader reader(checkpoint);
  for (const Transfer& transfer : transfers_)
    RETURN_IF_ERROR(reader.Check(transfer.name, transfer.stored_shape));
  return absl::OkStatus();
}

absl::StatusOr<Buffer> TransferPlan::Execute(const Checkpoint& checkpoint, Device device,
                                             const std::function<void(double)>& progress) const {
  RETURN_IF_ERROR(Check(checkpoint));
  TensorReader reader(checkpoint);
  return Fill(device, progress, [&reader](const Transfer& transfer, const Tensor& dst) {
    return reader.Read(transfer.name, transfer.block, dst);
  });
}

absl::StatusOr<Buffer> TransferPlan::ExecuteDummy(
    Device device, const std::function<void(double)>& progress) const {
  return Fill(device, progress, [](const Transfer& transfer, const Tensor& dst) {
    FillDummy(transfer.name, transfer.stored_shape, transfer.block, dst);
    return absl::OkStatus();
  });
}

absl::StatusOr<Buffer> TransferPlan::Fill(Device device,
                                          const std::function<void(double)>& progress,
                                          const FillRows& fill) const {
  // One buffer, so that it is worth huge pages; zero at first, which is what padding needs.
  ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(device, num_bytes_));
  for (const auto& [tensor, dtype, dims, offset] : placements_) {
    char* data = static_cast<char*>(buffer.data()) + offset;
    *tensor = dims.size() == 1 ? Tensor(data, dtype, device, {dims[0]})
                               : Tensor(data, dtype, device, {dims[0], dims[1]});
  }
  Buffer staging;
  if (device.type == DeviceType::kCuda) {
    ASSIGN_OR_RETURN(staging, Buffer::AllocatePinned(kStagingBytes));
  }
  for (size_t i = 0; i < transfers_.size(); ++i) {
    const Transfer& transfer = transfers_[i];
    const Tensor dst = transfer.dst->Rows(transfer.dst_row, transfer.block.num_rows);
    RETURN_IF_ERROR(device.type == DeviceType::kCuda ? FillThroughHost(transfer, dst, staging, fill)
                                                     : fill(transfer, dst));
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(transfers_.size()));
  }
  return buffer;
}

// Columns that a transfer leaves alone are padding, zero.
absl::Status TransferPlan::FillThroughHost(const Transfer& transfer, const Tensor& dst,
                                           const Buffer& staging, const FillRows& fill) {
  const int64_t columns = dst.rank() == 2 ? dst.dim(1) : 1;
  const int64_t row_bytes = columns * SizeOf(dst.dtype());
  const int64_t rows_at_once = staging.num_bytes() / row_bytes;
  CHECK_GT(rows_at_once, 0);
  for (int64_t row = 0; row < dst.dim(0); row += rows_at_once) {
    Transfer part = transfer;
    part.block.row_begin += row;
    part.block.num_rows = std::min(rows_at_once, dst.dim(0) - row);
    std::memset(staging.data(), 0, static_cast<size_t>(part.block.num_rows * row_bytes));
    const Tensor host =
        dst.rank() == 2
            ? Tensor(staging.data(), dst.dtype(), Device{}, {part.block.num_rows, columns})
            : Tensor(staging.data(), dst.dtype(), Device{}, {part.block.num_rows});
    RETURN_IF_ERROR(fill(part, host));
    CopyNow(host, dst.Rows(row, part.block.num_rows));
  }
  return absl::OkStatus();
}

}  // namespace polystrate
