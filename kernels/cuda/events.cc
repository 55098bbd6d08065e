#include "kernels/cuda/events.h"

#include "kernels/cuda/check_cuda.h"

namespace polystrate::cuda {

CUevent_st* CreateEvent(int device) {
  CHECK_CUDA(cudaSetDevice(device));
  cudaEvent_t event = nullptr;
  CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}

void DestroyEvent(CUevent_st* event) { CHECK_CUDA(cudaEventDestroy(event)); }

void RecordEvent(CUevent_st* event, CUstream_st* stream) {
  CHECK_CUDA(cudaEventRecord(event, stream));
}

bool EventPassed(CUevent_st* event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();  // which keeps it for the next who asks, such as a library
    return false;
  }
  CHECK_CUDA(status);  // a kernel that failed says so here
  return true;
}

void WaitForEvent(CUstream_st* stream, CUevent_st* event) {
  CHECK_CUDA(cudaStreamWaitEvent(stream, event, 0));
}

}  // namespace polystrate::cuda
