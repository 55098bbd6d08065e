#include "kernels/cuda/upload_ring.h"

#include <cuda_runtime.h>

#include <cstring>

#include "kernels/core/status.h"
#include "kernels/cuda/check_cuda.h"

namespace polystrate::cuda {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<UploadRing>> UploadRing::Create(Device device, int64_t half_bytes) {
  std::unique_ptr<UploadRing> ring(new UploadRing(half_bytes));
  ASSIGN_OR_RETURN(ring->host_, Buffer::AllocatePinned(2 * half_bytes));
  ASSIGN_OR_RETURN(ring->device_, Buffer::Allocate(device, 2 * half_bytes));
  for (cudaEvent_t& event : ring->passed_) {
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  return ring;
}

UploadRing::~UploadRing() {
  for (cudaEvent_t event : passed_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

const void* UploadRing::Upload(const void* data, int64_t num_bytes, CUstream_st* stream) {
  CHECK_LE(num_bytes, half_bytes_);
  if (used_ + num_bytes > half_bytes_) {
    CHECK_CUDA(cudaEventRecord(passed_[half_], stream));
    half_ = 1 - half_;
    used_ = 0;
    CHECK_CUDA(cudaEventSynchronize(passed_[half_]));
  }
  const int64_t offset = half_ * half_bytes_ + used_;
  used_ += (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  char* from = static_cast<char*>(host_.data()) + offset;
  char* to = static_cast<char*>(device_.data()) + offset;
  std::memcpy(from, data, num_bytes);
  CHECK_CUDA(cudaMemcpyAsync(to, from, num_bytes, cudaMemcpyHostToDevice, stream));
  return to;
}

}  // namespace polystrate::cuda
