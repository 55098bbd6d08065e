// Float64 versions of the operators, tensors that own their bytes, and the measures of error.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/ops.h"

namespace polystrate::testing {

// Deterministic inputs, the same on every machine: splitmix64 over an index.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  double Normal();

 private:
  uint64_t state_;
};

// Values in page-locked memory, which operators of every device may read and write as it is.
template <typename T>
class HostArray {
 public:
  explicit HostArray(int64_t size, const T& value = T()) : HostArray(std::vector<T>(size, value)) {}
  explicit HostArray(const std::vector<T>& values) : size_(values.size()) {
    buffer_ = *Buffer::AllocatePinned(static_cast<int64_t>(size_ * sizeof(T)));
    std::copy(values.begin(), values.end(), data());
  }

  T* data() const { return static_cast<T*>(buffer_.data()); }
  T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return size_; }
  absl::Span<T> span() const { return {data(), size_}; }

 private:
  Buffer buffer_;
  size_t size_;
};

// A tensor with its memory, page-locked, to which a margin of NaN is added on all sides: an
// operator that reads or writes outside its tensor shows. Rows lie `row_stride` elements apart (0:
// contiguous).
class HostTensor {
 public:
  HostTensor(DType dtype, std::initializer_list<int64_t> dims, int64_t row_stride = 0);

  HostTensor(HostTensor&&) = default;  // the bytes stay where they are

  Tensor tensor() const { return tensor_; }
  // Element `column` of row `row`, where a row is all dimensions after the first.
  double Get(int64_t row, int64_t column) const;
  void Set(int64_t row, int64_t column, double value);
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  // Fill and pass on, as in `const HostTensor x = HostTensor(...).FillNormal(random);`.
  HostTensor FillNormal(Random& random, double scale = 1.0) &&;
  HostTensor FillZero() &&;
  void FillNan();
  // All elements in row order, as the float64 reference takes them.
  std::vector<double> Values() const;
  // Whether everything outside the tensor is still NaN.
  bool MarginIntact() const;

 private:
  int64_t Index(int64_t row, int64_t column) const;
  double At(int64_t index) const;
  DType dtype_;
  int64_t rows_, columns_, row_stride_;
  HostArray<uint32_t> storage_;
  Tensor tensor_;
};

// int32 tensor from a list, in page-locked memory.
class HostInts {
 public:
  explicit HostInts(std::vector<int32_t> values);
  HostInts(std::vector<int32_t> values, int64_t rows);  // a matrix
  Tensor tensor() const { return tensor_; }
  const std::vector<int32_t>& values() const { return values_; }

 private:
  std::vector<int32_t> values_;
  HostArray<int32_t> storage_;
  Tensor tensor_;
};

struct Error {
  double max_abs = 0.0;
  double nmse = 0.0;  // sum of squared errors over sum of squares of the expected values
};
Error Measure(const std::vector<double>& expected, const std::vector<double>& actual);

// How far a result may be from the float64 reference of the same (already rounded) inputs.
struct Tolerance {
  double max_abs;  // for results of the order of 1
  double nmse;
};
// float32: a few hundred roundings of 6e-8. bfloat16: the result is rounded once, by at most 2^-8
// of its value, so its mean square error is below 2^-16 = 1.5e-5; all before that is float32.
// float16 has three bits more: an eighth of the error, a 64th of its square.
Tolerance ToleranceFor(DType dtype);

// The reference operators, all row-major float64.
std::vector<double> GemmReference(const HostTensor& x, const HostTensor& weight,
                                  const HostTensor* bias, Activation activation);
std::vector<double> LayerNormReference(const HostTensor& x, const HostTensor& weight,
                                       const HostTensor& bias, double epsilon);
// Over every weight.rows() columns of x: all of them, or each head.
std::vector<double> RmsNormReference(const HostTensor& x, const HostTensor& weight, double epsilon);
// gate_up: [num_tokens, 2 n]; gives [num_tokens, n].
std::vector<double> GatedActivationReference(const HostTensor& gate_up, Activation activation);
// Rotates head (head_dim values) in place as of `position`.
void RotateReference(double base, int rotary_dim, int64_t position, double* head);

// One query row against the first `num_keys` rows of keys and values (num_keys x head_dim each).
std::vector<double> AttentionRowReference(const std::vector<double>& query,
                                          const std::vector<double>& keys,
                                          const std::vector<double>& values, int64_t num_keys,
                                          double scale);

}  // namespace polystrate::testing
