// CacheSweep: reads through so much memory that nothing else is left in the caches of the device.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/core/device.h"
#include "kernels/machine_limits.h"

namespace polystrate {

class CacheSweep {
 public:
  // num_bytes is a multiple of 512 KiB; `stream` must outlive this.
  CacheSweep(const Stream& stream, int64_t num_bytes) {
    if (stream.device().type == DeviceType::kCuda) {
      gpu_ = std::make_unique<GpuSweep>(stream, num_bytes);
    } else {
      cpu_ = std::make_unique<MemorySweep>(stream.num_threads(), num_bytes);
    }
  }
  // On a GPU enqueued.
  void Read() const {
    if (gpu_ != nullptr) gpu_->Read();
    if (cpu_ != nullptr) cpu_->Read();
  }

 private:
  std::unique_ptr<GpuSweep> gpu_;
  std::unique_ptr<MemorySweep> cpu_;
};

}  // namespace polystrate
