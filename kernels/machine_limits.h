// What the machine can do at best, measured: benchmarks print their results as shares of it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
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

// The same of what `work` enqueues on `stream`, until it is done; on a GPU by the GPU's clock.
// `before` is run ahead of each repetition, unmeasured. A GPU waits for its host where `work` takes
// it less time than the host, and that is measured too, unless `before` gives it enough to do
// meanwhile: GpuSweep::Read does, and leaves nothing of `work` in the L2 cache.
Timing Time(const Stream& stream, int repetitions, const std::function<void()>& work,
            const std::function<void()>& before = {});

// A tensor with its memory, filled with small values that differ.
class OwnedTensor {
 public:
  OwnedTensor(DType dtype, std::initializer_list<int64_t> dims, Device device = {});
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

// The same for the memory of a GPU, enqueued on its stream, which must outlive this.
class GpuSweep {
 public:
  // `num_bytes` is a multiple of 512 KiB.
  explicit GpuSweep(const Stream& stream, int64_t num_bytes = kSweepBytes);
  void Read() const;
  // One half onto the other.
  void Copy() const;

 private:
  const Stream& stream_;
  Buffer buffer_;
  Buffer sink_;
};

// Bytes per second that a GPU reads, and that it reads and writes (counted both) when it copies, at
// best, from memory to memory.
double MeasureReadBandwidth(const Stream& gpu, int64_t num_bytes = kSweepBytes);
double MeasureCopyBandwidth(const Stream& gpu, int64_t num_bytes = kSweepBytes);

// Operations per second of the best the matrix product reaches: on the CPU on a square that stays
// in the cache, on a GPU on one large enough to fill it (8192), or on one of `size`.
double MeasureMatrixRate(const Stream& stream, DType dtype, std::optional<int64_t> size = {});

}  // namespace polystrate
