#include "kernels/cuda/memory.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/check_cuda.h"

namespace polystrate::cuda {
namespace {

// The last error is the runtime's to keep until it is asked for it.
absl::Status Failed(cudaError_t error, const std::string& what) {
  cudaGetLastError();
  return absl::ResourceExhaustedError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

}  // namespace

int NumDevices() {
  int count = 0;  // cudaGetDeviceCount leaves it alone when there is no driver
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

int64_t FreeMemory(int device) {
  CHECK_CUDA(cudaSetDevice(device));
  size_t free_bytes = 0, total_bytes = 0;
  CHECK_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(free_bytes);
}

int64_t TotalMemory(int device) {
  cudaDeviceProp properties;
  CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
  return static_cast<int64_t>(properties.totalGlobalMem);
}

absl::StatusOr<void*> Allocate(int device, int64_t num_bytes) {
  CHECK_CUDA(cudaSetDevice(device));
  void* data = nullptr;
  // cudaMalloc of nothing gives no address; an empty tensor has one.
  const size_t size = num_bytes > 0 ? num_bytes : 1;
  if (const cudaError_t error = cudaMalloc(&data, size); error != cudaSuccess) {
    return Failed(error, absl::StrCat("cannot allocate ", num_bytes, " bytes on GPU ", device, ", ",
                                      FreeMemory(device), " are free"));
  }
  CHECK_CUDA(cudaMemset(data, 0, size));
  // cudaMemset runs on the default stream, for which others do not wait.
  CHECK_CUDA(cudaStreamSynchronize(nullptr));
  return data;
}

void Free(void* data) { CHECK_CUDA(cudaFree(data)); }

absl::StatusOr<void*> AllocatePinned(int64_t num_bytes) {
  void* data = nullptr;
  const size_t size = num_bytes > 0 ? num_bytes : 1;
  if (const cudaError_t error = cudaMallocHost(&data, size); error != cudaSuccess) {
    return Failed(error,
                  absl::StrCat("cannot allocate ", num_bytes, " bytes of page-locked memory"));
  }
  std::memset(data, 0, size);
  return data;
}

void FreePinned(void* data) { CHECK_CUDA(cudaFreeHost(data)); }

void CopyAsync(const void* from, void* to, int64_t num_bytes, CUstream_st* stream) {
  CHECK_CUDA(cudaMemcpyAsync(to, from, static_cast<size_t>(num_bytes), cudaMemcpyDefault, stream));
}

void Copy(int device, const void* from, void* to, int64_t num_bytes) {
  CHECK_CUDA(cudaSetDevice(device));
  CHECK_CUDA(cudaMemcpy(to, from, static_cast<size_t>(num_bytes), cudaMemcpyDefault));
  // A copy from pageable host memory may return before its last part has arrived.
  CHECK_CUDA(cudaStreamSynchronize(nullptr));
}

}  // namespace polystrate::cuda
