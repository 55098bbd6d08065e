// What the machine can do at best, measured: benchmarks print their results as shares of it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

constexpr double kGiga = 1e9, kTera = 1e12;

// Seconds on the monotonic clock.
double Now();

struct Timing {
  double median, fastest, slowest;  // seconds; the last two are the 10th and 90th percentile
};

// Runs `work` once unmeasured, then `repetitions` times.
Timing Time(int repetitions, const std::function<void()>& work);

// A tensor with its memory, filled with small values that differ.
class OwnedTensor {
 public:
  OwnedTensor(DType dtype, std::initializer_list<int64_t> dims);
  const Tensor& operator*() const { return tensor_; }

 private:
  Buffer buffer_;
  Tensor tensor_;
};

// Bytes per second of summing 1 GiB with all threads, at best.
double MeasureReadBandwidth(int num_threads);

// Operations per second of the best the matrix product reaches on a square that stays in the cache.
double MeasureMatrixRate(const Stream& stream, DType dtype);

}  // namespace polystrate
