#include "kernels/cuda/upload_ring.h"

#include <cuda_runtime.h>

#include <bit>
#include <cstring>
#include <utility>

#include "kernels/core/status.h"
#include "kernels/cuda/check_cuda.h"

namespace polystrate::cuda {
namespace {

constexpr int64_t kAlignment = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<UploadRing>> UploadRing::Create(Device device, int64_t half_bytes) {
  std::unique_ptr<UploadRing> ring(new UploadRing(device));
  RETURN_IF_ERROR(ring->TakeMemory(half_bytes));
  for (cudaEvent_t& event : ring->passed_) {
    CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  return ring;
}

absl::Status UploadRing::TakeMemory(int64_t half_bytes) {
  ASSIGN_OR_RETURN(host_, Buffer::AllocatePinned(2 * half_bytes));
  ASSIGN_OR_RETURN(device_, Buffer::Allocate(place_, 2 * half_bytes));
  half_bytes_ = half_bytes;
  used_ = 0;
  return absl::OkStatus();
}

UploadRing::~UploadRing() {
  for (cudaEvent_t event : passed_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

int64_t UploadRing::Stage(const void* data, int64_t num_bytes, CUstream_st* stream) {
  if (2 * num_bytes > half_bytes_) {
    outgrown_.push_back(std::move(host_));
    outgrown_.push_back(std::move(device_));
    const uint64_t size = std::bit_ceil(static_cast<uint64_t>(num_bytes));
    const absl::Status taken = TakeMemory(static_cast<int64_t>(2 * size));
    if (!taken.ok()) CheckFailed(__FILE__, __LINE__, taken.ToString());
  }
  if (used_ + num_bytes > half_bytes_) {
    CHECK_CUDA(cudaEventRecord(passed_[half_], stream));
    half_ = 1 - half_;
    used_ = 0;
    CHECK_CUDA(cudaEventSynchronize(passed_[half_]));
  }
  const int64_t offset = half_ * half_bytes_ + used_;
  used_ += (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  std::memcpy(static_cast<char*>(host_.data()) + offset, data, num_bytes);
  return offset;
}

const void* UploadRing::Upload(const void* data, int64_t num_bytes, CUstream_st* stream) {
  const int64_t offset = Stage(data, num_bytes, stream);
  char* to = static_cast<char*>(device_.data()) + offset;
  CHECK_CUDA(cudaMemcpyAsync(to, static_cast<char*>(host_.data()) + offset, num_bytes,
                             cudaMemcpyHostToDevice, stream));
  return to;
}

void UploadRing::UploadTo(void* to, const void* data, int64_t num_bytes, CUstream_st* stream) {
  const int64_t offset = Stage(data, num_bytes, stream);
  CHECK_CUDA(cudaMemcpyAsync(to, static_cast<char*>(host_.data()) + offset, num_bytes,
                             cudaMemcpyHostToDevice, stream));
}

}  // namespace polystrate::cuda
