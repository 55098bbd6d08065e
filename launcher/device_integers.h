// DeviceIntegers: a copy of host integers where an operator looks for them.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/core/check.h"
#include "kernels/core/copy.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

class DeviceIntegers {
 public:
  // Done on return.
  DeviceIntegers(Device device, std::vector<int32_t> values) : device_(device) {
    const auto size = static_cast<int64_t>(values.size());
    auto buffer = Buffer::Allocate(device, size * SizeOf(DType::kInt32));
    CHECK(buffer.ok());
    buffer_ = *std::move(buffer);
    CopyNow(Tensor(values.data(), DType::kInt32, Device{}, {size}), View({size}));
  }
  Tensor View(std::initializer_list<int64_t> dims) const {
    return Tensor(buffer_.data(), DType::kInt32, device_, dims);
  }

 private:
  Device device_;
  Buffer buffer_;
};

}  // namespace polystrate
