// Device, Stream, Event and Buffer: where memory lies, where work runs, when it is done, and who
// owns the bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace polystrate {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
};

// GPUs this process may use; 0 without a driver, and in a build without CUDA.
int NumCudaDevices();

class CpuContext;   // kernels/cpu/context.h: threads, scratch, chosen instruction set
class CudaContext;  // kernels/cuda/context.h: the CUDA stream, scratch, cuBLASLt

// The queue operators are given, which run in the order they came. On the CPU an operator has
// finished when it returns, and runs on this stream's own threads; on a GPU it returns when it is
// enqueued. One thread at a time may use a stream. Movable, owned by the rank.
class Stream {
 public:
  // A CPU stream that uses `num_threads` threads (>= 1).
  static Stream Cpu(int num_threads);
  // A stream of GPU `index`, in [0, NumCudaDevices()), which becomes the calling thread's. An error
  // says why the GPU cannot be used.
  static absl::StatusOr<Stream> Cuda(int index);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  Device device() const { return device_; }
  int num_threads() const;
  CpuContext& cpu() const { return *cpu_; }
  CudaContext& cuda() const { return *cuda_; }

  // Until all that was enqueued is done.
  void Synchronize() const;
  // Calls `work` now; or, while a graph is recorded (step_graph.h), at that place of every replay.
  void OnHost(std::function<void()> work) const;

 private:
  Stream();
  Device device_;
  std::unique_ptr<CpuContext> cpu_;
  std::unique_ptr<CudaContext> cuda_;
};

// Owner of device bytes, aligned to 64. Contents are zero at first; the pages of a large buffer of
// host memory are only taken from the system when they are first touched. Move-only.
class Buffer {
 public:
  Buffer() = default;
  // RESOURCE_EXHAUSTED, with the size, when the memory cannot be had.
  static absl::StatusOr<Buffer> Allocate(Device device, int64_t num_bytes);
  // Host memory that GPUs copy to and from without the host's help, and can read and write as it
  // is: page-locked where there is a GPU. Errors as above.
  static absl::StatusOr<Buffer> AllocatePinned(int64_t num_bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  enum class Kind : uint8_t { kHost, kPinned, kCuda };
  void* data_ = nullptr;
  int64_t num_bytes_ = 0;
  Kind kind_ = Kind::kHost;
};

}  // namespace polystrate
