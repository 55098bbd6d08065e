#include "kernels/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "kernels/ops.h"

namespace polystrate {
namespace {

constexpr int64_t kSweepChunk = 1 << 15;  // words that a thread takes at a time

// Sum of `count` words, with as many loads under way as the core can have.
__attribute__((target("avx2"))) uint64_t SumWords(const uint64_t* data, int64_t count) {
  using Words = uint64_t __attribute__((vector_size(32)));
  Words lanes[8] = {};
  const auto* words = reinterpret_cast<const Words*>(data);
  for (int64_t i = 0; i < count / 4; i += 8) {
    for (int lane = 0; lane < 8; lane += 2) __builtin_prefetch(words + i + lane + 128);
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const Words& lane : lanes) sum += lane[0] + lane[1] + lane[2] + lane[3];
  return sum;
}

}  // namespace

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Timing Summarize(std::vector<double> seconds) {
  CHECK(!seconds.empty());
  std::sort(seconds.begin(), seconds.end());
  const size_t n = seconds.size();
  return {seconds[n / 2], seconds[n / 10], seconds[n - 1 - n / 10]};
}

Timing Time(int repetitions, const std::function<void()>& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const double start = Now();
    work();
    seconds.push_back(Now() - start);
  }
  return Summarize(std::move(seconds));
}

OwnedTensor::OwnedTensor(DType dtype, std::initializer_list<int64_t> dims) {
  const int64_t size = Tensor(nullptr, dtype, Device{}, dims).num_bytes();
  auto buffer = Buffer::Allocate(Device{}, size);
  CHECK(buffer.ok());
  buffer_ = *std::move(buffer);
  tensor_ = Tensor(buffer_.data(), dtype, Device{}, dims);
  uint32_t state = 1;
  for (int64_t i = 0; i < tensor_.num_elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * 0.1f;
    if (dtype == DType::kFloat32) tensor_.data<float>()[i] = value;
    if (dtype == DType::kBFloat16) tensor_.data<BFloat16>()[i] = BFloat16::FromFloat(value);
  }
}

MemorySweep::MemorySweep(int num_threads, int64_t num_bytes) : num_threads_(num_threads) {
  CHECK_EQ(num_bytes % (kSweepChunk * 8), 0);
  auto buffer = Buffer::Allocate(Device{}, num_bytes);
  CHECK(buffer.ok());
  buffer_ = *std::move(buffer);
  std::fill_n(static_cast<uint64_t*>(buffer_.data()), num_bytes / 8, uint64_t{3});
}

void MemorySweep::Read() const {
  const int64_t count = buffer_.num_bytes() / 8;
  const auto* data = static_cast<const uint64_t*>(buffer_.data());
  uint64_t sum = 0;
#pragma omp parallel for num_threads(num_threads_) schedule(dynamic, 1) reduction(+ : sum)
  for (int64_t chunk = 0; chunk < count / kSweepChunk; ++chunk) {
    sum += SumWords(data + chunk * kSweepChunk, kSweepChunk);
  }
  CHECK_EQ(sum, 3 * static_cast<uint64_t>(count));  // keeps the sums
}

double MeasureReadBandwidth(int num_threads, int64_t num_bytes) {
  const MemorySweep sweep(num_threads, num_bytes);
  return static_cast<double>(num_bytes) / Time(19, [&] { sweep.Read(); }).fastest;
}

double MeasureMatrixRate(const Stream& stream, DType dtype) {
  constexpr int64_t kSize = 1024;
  const OwnedTensor x(dtype, {kSize, kSize}), weight(dtype, {kSize, kSize});
  const OwnedTensor out(DType::kFloat32, {kSize, kSize});
  const Timing timing = Time(15, [&] { Gemm(stream, *x, *weight, Tensor(), *out); });
  return 2.0 * kSize * kSize * kSize / timing.fastest;
}

}  // namespace polystrate
