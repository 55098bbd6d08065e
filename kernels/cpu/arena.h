// Arena: scratch memory that operators reuse from call to call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "kernels/core/check.h"

namespace polystrate::cpu {

// Memory that grows to the largest size ever asked for and is then reused.
class Arena {
 public:
  // `num_bytes` bytes aligned to 64; what an earlier call returned is void.
  void* Get(int64_t num_bytes) {
    if (num_bytes > num_bytes_ || data_ == nullptr) {
      constexpr int64_t kAlignment = 64;
      num_bytes_ = (num_bytes / kAlignment + 1) * kAlignment;
      data_.reset();  // first, so that both never exist
      data_.reset(std::aligned_alloc(kAlignment, num_bytes_));
      CHECK(data_ != nullptr);
    }
    return data_.get();
  }
  template <typename T>
  T* Get(int64_t count) {
    return static_cast<T*>(Get(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t num_bytes_ = 0;
};

}  // namespace polystrate::cpu
