#include "kernels/cuda/context.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "kernels/cuda/check_cuda.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/upload_ring.h"

namespace polystrate {
namespace {

constexpr int64_t kUploadBytes = int64_t{32} << 20;
constexpr int64_t kLeastScratchBytes = int64_t{32} << 20;
constexpr int kOldestCompute = 8;  // what the kernels are compiled for (CMakeLists.txt)
// Kernels of warpgroups have run on the tests' emulator and on no GPU. They rest on more that only
// a GPU can confirm than any other kernel does (how the hardware reads descriptors, and what it
// orders), and a wrong result would be worse than a slow one. tools/gpu_check tests and times
// attention both ways; once its tests have passed on a GPU of compute capability 9.0, this is to be
// true.
constexpr bool kWarpgroupsAtFirst = false;
constexpr int64_t kLeastSharedBytes = int64_t{163} << 10;  // decode attention's widest heads

GpuProperties ReadProperties(int device) {
  cudaDeviceProp raw;
  CHECK_CUDA(cudaGetDeviceProperties(&raw, device));
  char bus_id[32] = {};
  CHECK_CUDA(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device));
  GpuProperties properties;
  properties.name = raw.name;
  properties.pci_bus_id = bus_id;
  properties.compute_major = raw.major;
  properties.compute_minor = raw.minor;
  properties.num_sms = raw.multiProcessorCount;
  properties.max_shared_bytes = static_cast<int64_t>(raw.sharedMemPerBlockOptin);
  properties.l2_bytes = raw.l2CacheSize;
  properties.total_bytes = static_cast<int64_t>(raw.totalGlobalMem);
  return properties;
}

}  // namespace

CudaContext::CudaContext(int device) : device_(device) {}

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Create(int device) {
  const int num_devices = cuda::NumDevices();
  if (device < 0 || device >= num_devices) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is no GPU ", device, ": the CUDA driver shows ", num_devices,
                     num_devices == 0 ? "; use --device cpu, or look at nvidia-smi" : ""));
  }
  CHECK_CUDA(cudaSetDevice(device));
  std::unique_ptr<CudaContext> context(new CudaContext(device));
  context->properties_ = ReadProperties(device);
  if (context->properties_.compute_major < kOldestCompute) {
    return absl::FailedPreconditionError(
        absl::StrCat("GPU ", device, " (", context->properties_.name, ") has compute capability ",
                     context->properties_.compute_major, ".", context->properties_.compute_minor,
                     "; polystrate needs ", kOldestCompute, ".0 (Ampere) or newer"));
  }
  if (context->properties_.max_shared_bytes < kLeastSharedBytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "GPU ", device, " (", context->properties_.name, ") gives a thread block ",
        context->properties_.max_shared_bytes >> 10, " KiB of shared memory; polystrate needs ",
        kLeastSharedBytes >> 10, ", as A100, H100 and what follows them have"));
  }
  context->set_warpgroups(kWarpgroupsAtFirst);
  CHECK_CUDA(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking));
  const Device place = {DeviceType::kCuda, device};
  const int64_t counter_bytes = kMaxCounters * int64_t{sizeof(uint32_t)};
  ASSIGN_OR_RETURN(context->counters_, Buffer::Allocate(place, counter_bytes));
  ASSIGN_OR_RETURN(context->upload_ring_, cuda::UploadRing::Create(place, kUploadBytes));
  ASSIGN_OR_RETURN(context->library_gemm_, cuda::LibraryGemm::Create(place));
  return context;
}

CudaContext::~CudaContext() {
  if (stream_ == nullptr) return;
  Synchronize();
  cudaStreamDestroy(stream_);
}

void CudaContext::Synchronize() const { CHECK_CUDA(cudaStreamSynchronize(stream_)); }

void CudaContext::set_warpgroups(bool wanted) {
  warpgroups_ = wanted && properties_.compute_major == 9 && properties_.compute_minor == 0;
}

const void* CudaContext::Upload(const void* data, int64_t num_bytes) {
  CHECK(!recording());
  return upload_ring_->Upload(data, num_bytes, stream_);
}

void CudaContext::UploadTo(void* to, const void* data, int64_t num_bytes) {
  CHECK(!recording());
  upload_ring_->UploadTo(to, data, num_bytes, stream_);
}

uint32_t* CudaContext::Counters(int64_t count) const {
  CHECK_LE(count, kMaxCounters);
  return static_cast<uint32_t*>(counters_.data());
}

void* CudaContext::Scratch(int64_t num_bytes) {
  if (num_bytes <= scratch_.num_bytes()) return scratch_.data();
  CHECK(!recording());
  const auto size = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_bytes)));
  absl::StatusOr<Buffer> scratch =
      Buffer::Allocate({DeviceType::kCuda, device_}, std::max(size, kLeastScratchBytes));
  if (!scratch.ok()) CheckFailed(__FILE__, __LINE__, scratch.status().ToString());
  outgrown_.push_back(std::exchange(scratch_, *std::move(scratch)));
  return scratch_.data();
}

}  // namespace polystrate
