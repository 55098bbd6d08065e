// What the emulator's own tests share: a context, and memory that both sides may touch.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace polystrate::cuda {

// Page-locked, so that kernels write it and tests read it.
template <typename T>
class Shown {
 public:
  explicit Shown(int64_t size, T value = T()) : size_(size) {
    buffer_ = *Buffer::AllocatePinned(size * static_cast<int64_t>(sizeof(T)));
    std::fill(data(), data() + size, value);
  }
  T* data() const { return static_cast<T*>(buffer_.data()); }
  T& operator[](int64_t i) const { return data()[i]; }
  int64_t size() const { return size_; }

 private:
  Buffer buffer_;
  int64_t size_;
};

// Kernels have run when Launch returns.
inline const bool kLaunchesBlock = setenv("CUDA_LAUNCH_BLOCKING", "1", 1) == 0;

class EmulatorTest : public ::testing::Test {
 protected:
  const CudaContext& context() const { return *context_; }

 private:
  std::unique_ptr<CudaContext> context_ = *CudaContext::Create(0);
};

}  // namespace polystrate::cuda
