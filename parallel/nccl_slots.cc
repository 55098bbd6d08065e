#include "parallel/nccl_slots.h"

#include <bit>

#include "kernels/cuda/check_cuda.h"

namespace polystrate {

NcclSlot::NcclSlot() {
  for (CUevent_st** event : {&filled_, &emptied_}) {
    CHECK_CUDA(cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  }
}

NcclSlot::~NcclSlot() {
  cudaEventDestroy(filled_);
  cudaEventDestroy(emptied_);
}

Tensor NcclSlot::Like(const Tensor& x) {
  if (x.num_bytes() > buffer_.num_bytes()) {
    CHECK_CUDA(cudaEventSynchronize(emptied_));
    buffer_ = Buffer();
    const uint64_t size = std::bit_ceil(static_cast<uint64_t>(x.num_bytes()));
    absl::StatusOr<Buffer> buffer = Buffer::Allocate(x.device(), static_cast<int64_t>(size));
    if (!buffer.ok()) CheckFailed(__FILE__, __LINE__, buffer.status().ToString());
    buffer_ = *std::move(buffer);
  }
  return Tensor(buffer_.data(), x.dtype(), x.device(), {x.num_elements()});
}

void NcclSlot::Claim(CUstream_st* filler) const {
  CHECK_CUDA(cudaStreamWaitEvent(filler, emptied_, 0));
}

void NcclSlot::HandOver(CUstream_st* filler, CUstream_st* emptier) const {
  CHECK_CUDA(cudaEventRecord(filled_, filler));
  CHECK_CUDA(cudaStreamWaitEvent(emptier, filled_, 0));
}

void NcclSlot::Release(CUstream_st* emptier) const {
  CHECK_CUDA(cudaEventRecord(emptied_, emptier));
}

}  // namespace polystrate
