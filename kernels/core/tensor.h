// Tensor: a non-owning view of at most four dimensions. Buffer (device.h) owns the memory.
//
// Row-major; the dimensions after the first are contiguous, the first may be strided (row_stride,
// in elements), so that Columns() can name a slice of a fused projection without a copy.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "kernels/core/check.h"
#include "kernels/core/device.h"
#include "kernels/core/dtype.h"

namespace polystrate {

class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, DType dtype, Device device, std::initializer_list<int64_t> dims)
      : data_(data), dtype_(dtype), device_(device), rank_(static_cast<int>(dims.size())) {
    CHECK_LE(dims.size(), 4u);
    int i = 0;
    for (int64_t dim : dims) dims_[i++] = dim;
    row_stride_ = 1;
    for (int axis = 1; axis < rank_; ++axis) row_stride_ *= dims_[axis];
  }

  bool empty() const { return data_ == nullptr; }  // a weight or output that is absent
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int rank() const { return rank_; }
  int64_t dim(int axis) const {
    CHECK_LT(axis, rank_);
    return dims_[axis];
  }
  int64_t row_stride() const { return row_stride_; }
  int64_t num_elements() const {
    int64_t n = 1;
    for (int axis = 0; axis < rank_; ++axis) n *= dims_[axis];
    return n;
  }
  int64_t num_bytes() const { return num_elements() * SizeOf(dtype_); }
  bool contiguous() const { return dim(0) <= 1 || row_stride_ * dim(0) == num_elements(); }

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    CHECK(kDTypeOf<T> == dtype_);
    return static_cast<T*>(data_);
  }

  // Rows [begin, begin + count).
  Tensor Rows(int64_t begin, int64_t count) const {
    CHECK(begin >= 0 && count >= 0 && begin + count <= dim(0));
    Tensor t = *this;
    t.data_ = static_cast<char*>(data_) + begin * row_stride_ * SizeOf(dtype_);
    t.dims_[0] = count;
    return t;
  }
  // Columns [begin, begin + count) of a matrix; keeps the row stride.
  Tensor Columns(int64_t begin, int64_t count) const {
    CHECK_EQ(rank_, 2);
    CHECK(begin >= 0 && count >= 0 && begin + count <= dims_[1]);
    Tensor t = *this;
    t.data_ = static_cast<char*>(data_) + begin * SizeOf(dtype_);
    t.dims_[1] = count;
    return t;
  }

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kFloat32;
  Device device_;
  int rank_ = 0;
  std::array<int64_t, 4> dims_ = {0, 0, 0, 0};
  int64_t row_stride_ = 0;
};

}  // namespace polystrate
