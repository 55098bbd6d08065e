// Device, Stream and Buffer: where memory lies, where work runs, and who owns the bytes.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

namespace polystrate {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
};

class CpuContext;  // kernels/cpu/context.h: threads, scratch, chosen instruction set

// The queue operators are given. On the CPU an operator has finished when it returns, and runs on
// this stream's own threads. One thread at a time may use a stream. Movable, owned by the rank.
class Stream {
 public:
  // A CPU stream that uses `num_threads` threads (>= 1).
  static Stream Cpu(int num_threads);
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;
  ~Stream();

  Device device() const { return device_; }
  int num_threads() const;
  CpuContext& cpu() const { return *cpu_; }

 private:
  Stream();
  Device device_;
  std::unique_ptr<CpuContext> cpu_;
};

// Owner of device bytes, aligned to 64. Contents are zero at first; the pages of a large buffer are
// only taken from the system when they are first touched. Move-only.
class Buffer {
 public:
  Buffer() = default;
  // RESOURCE_EXHAUSTED, with the size, when the memory cannot be had.
  static absl::StatusOr<Buffer> Allocate(Device device, int64_t num_bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  void* data_ = nullptr;
  int64_t num_bytes_ = 0;
};

}  // namespace polystrate
