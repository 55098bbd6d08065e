// What the machine can do at best, measured: benchmarks print their results as shares of it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

constexpr double kGiga = 1e9, kTera = 1e12;

// Seconds on the monotonic clock.
double Now();

struct Timing {
  double median, fastest, slowest;  // seconds; the last two are the 10th and 90th percentile
};

// Of at least one measurement, in any order.
Timing Summarize(std::vector<double> seconds);

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

// More than caches hold.
inline constexpr int64_t kSweepBytes = int64_t{1} << 30;

// Memory to read through: that measures its speed, and leaves nothing else in the caches.
class MemorySweep {
 public:
  // `num_bytes` is a multiple of 256 KiB.
  MemorySweep(int num_threads, int64_t num_bytes);
  void Read() const;

 private:
  int num_threads_;
  Buffer buffer_;
};

// Bytes per second of a MemorySweep with all threads, at best.
double MeasureReadBandwidth(int num_threads, int64_t num_bytes = kSweepBytes);

// Operations per second of the best the matrix product reaches on a square that stays in the cache.
double MeasureMatrixRate(const Stream& stream, DType dtype);

}  // namespace polystrate
