// Errors, devices, memory and launches of the emulated runtime API.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "emulated/runtime_api.h"
#include "tests/cuda_emulator/fault.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/shared_memory.h"
#include "tests/cuda_emulator/stream.h"

namespace polystrate::emulator {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;

std::mutex shared_limits_mutex;
std::map<const void*, size_t> shared_limits;  // by kernel: what cudaFuncSetAttribute has granted

int NumDevices() {
  static const int num_devices = [] {
    NameFaults();
    const char* set = std::getenv("POLYSTRATE_EMULATED_GPUS");
    return set == nullptr ? 1 : std::atoi(set);
  }();
  return num_devices;
}

bool IsDevice(int device) { return device >= 0 && device < NumDevices(); }

size_t SharedLimit(const void* kernel) {
  const std::lock_guard<std::mutex> lock(shared_limits_mutex);
  const auto found = shared_limits.find(kernel);
  return found == shared_limits.end() ? kPlainSharedBytes : found->second;
}

cudaError_t Allocate(MemoryKind kind, void** data, size_t num_bytes) {
  *data = nullptr;
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  if (num_bytes == 0) return cudaSuccess;
  *data = AllocateMemory(kind, current_device, num_bytes);
  return Result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t Free(MemoryKind kind, void* data) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  FinishAll();  // it waits for what may use the memory
  if (data == nullptr || FreeMemory(kind, data)) return cudaSuccess;
  return Result(cudaErrorInvalidValue);
}

// Page-locked memory may stand for a device's, but not the reverse.
bool MayBe(bool device, const void* data, size_t num_bytes) {
  switch (FindMemory(data, num_bytes)) {
    case Residence::kPageable:
      return !device;
    case Residence::kPinned:
      return true;
    case Residence::kDevice:
      return device;
    case Residence::kBeyondEnd:
      return false;
  }
  return false;
}

cudaError_t CheckCopy(const void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind) {
  if (num_bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyDefault) {
    const bool beyond = FindMemory(to, num_bytes) == Residence::kBeyondEnd ||
                        FindMemory(from, num_bytes) == Residence::kBeyondEnd;
    return beyond ? cudaErrorInvalidValue : cudaSuccess;
  }
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return MayBe(to_device, to, num_bytes) && MayBe(from_device, from, num_bytes)
             ? cudaSuccess
             : cudaErrorInvalidValue;
}

}  // namespace

cudaError_t Result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t EnqueueKernel(KernelLaunch launch, cudaStream_t stream) {
  const dim3& grid = launch.grid;
  const dim3& block = launch.block;
  constexpr unsigned kMaxGridX = 0x7fffffff, kMaxGridYZ = 0xffff, kMaxBlockZ = 64;
  const bool some = grid.x * grid.y * grid.z != 0 && block.x * block.y * block.z != 0;
  if (!some || grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ ||
      block.z > kMaxBlockZ || uint64_t{block.x} * block.y * block.z > kMaxThreads) {
    return Result(cudaErrorInvalidConfiguration);
  }
  if (launch.dynamic_shared_bytes > SharedLimit(launch.kernel)) {
    return Result(cudaErrorInvalidValue);
  }
  return Enqueue(stream, [launch = std::move(launch)] { RunGrid(launch); });
}

}  // namespace polystrate::emulator

using namespace polystrate::emulator;  // NOLINT: what follows is C's

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureMerge:
      return "cudaErrorStreamCaptureMerge";
    case cudaErrorStreamCaptureUnmatched:
      return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
  }
  return "an unknown error";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = NumDevices();
  return Result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (!IsDevice(device)) return Result(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!IsDevice(device)) return Result(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated GPU");
  properties->totalGlobalMem = kDeviceBytes;
  properties->sharedMemPerBlock = kPlainSharedBytes;
  properties->sharedMemPerBlockOptin = kMaxSharedBytes;
  properties->sharedMemPerMultiprocessor = 228 << 10;
  properties->major = 9;
  properties->multiProcessorCount = 132;
  properties->maxThreadsPerBlock = kMaxThreads;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->warpSize = kWarpSize;
  properties->regsPerBlock = 65536;
  properties->l2CacheSize = 60 << 20;
  properties->memoryBusWidth = 6144;
  properties->pciBusID = device + 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device);
      error != cudaSuccess) {
    return error;
  }
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      return cudaSuccess;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      return cudaSuccess;
  }
  return Result(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceGetPCIBusId(char* bus_id, int size, int device) {
  if (!IsDevice(device)) return Result(cudaErrorInvalidDevice);
  std::snprintf(bus_id, static_cast<size_t>(size), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = kDeviceBytes;
  *free_bytes = kDeviceBytes - UsedBytes(current_device);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t num_bytes) {
  return Allocate(MemoryKind::kDevice, data, num_bytes);
}
cudaError_t cudaFree(void* data) { return Free(MemoryKind::kDevice, data); }
cudaError_t cudaMallocHost(void** data, size_t num_bytes) {
  return Allocate(MemoryKind::kPinned, data, num_bytes);
}
cudaError_t cudaHostAlloc(void** data, size_t num_bytes, unsigned) {
  return cudaMallocHost(data, num_bytes);
}
cudaError_t cudaFreeHost(void* data) { return Free(MemoryKind::kPinned, data); }

cudaError_t cudaMemset(void* to, int value, size_t num_bytes) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  return cudaMemsetAsync(to, value, num_bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t num_bytes, cudaStream_t stream) {
  if (num_bytes > 0 && !MayBe(true, to, num_bytes)) return Result(cudaErrorInvalidValue);
  return Enqueue(stream, [=] { std::memset(to, value, num_bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = CheckNotRecording(); error != cudaSuccess) return error;
  return cudaMemcpyAsync(to, from, num_bytes, kind, nullptr);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t num_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = CheckCopy(to, from, num_bytes, kind); error != cudaSuccess) {
    return Result(error);
  }
  const bool pageable_from = FindMemory(from, num_bytes) == Residence::kPageable;
  if (pageable_from && !IsRecording(stream)) {  // it is read before the call returns
    const char* begin = static_cast<const char*>(from);
    return Enqueue(stream, [to, bytes = std::vector<char>(begin, begin + num_bytes)] {
      std::memcpy(to, bytes.data(), bytes.size());
    });
  }
  const cudaError_t error = Enqueue(stream, [=] { std::memmove(to, from, num_bytes); });
  const bool pageable_to = FindMemory(to, num_bytes) == Residence::kPageable;
  if (stream != nullptr && pageable_to && !IsRecording(stream)) Finish(stream);
  return error;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t row_bytes, size_t num_rows, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (row_bytes > to_pitch || row_bytes > from_pitch) return Result(cudaErrorInvalidValue);
  for (size_t row = 0; row < num_rows; ++row) {
    const cudaError_t error =
        cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                        static_cast<const char*>(from) + row * from_pitch, row_bytes, kind, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kMaxSharedBytes) {
    return Result(cudaErrorInvalidValue);
  }
  const std::lock_guard<std::mutex> lock(shared_limits_mutex);
  shared_limits[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
