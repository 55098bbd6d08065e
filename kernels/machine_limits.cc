#include "kernels/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/ops.h"

namespace polystrate {
namespace {

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

Timing Time(int repetitions, const std::function<void()>& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    const double start = Now();
    work();
    seconds.push_back(Now() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[repetitions / 2], seconds[repetitions / 10],
          seconds[repetitions - 1 - repetitions / 10]};
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

double MeasureReadBandwidth(int num_threads) {
  constexpr int64_t kCount = int64_t{1} << 27, kChunk = 1 << 15;
  auto buffer = Buffer::Allocate(Device{}, kCount * 8);
  CHECK(buffer.ok());
  auto* data = static_cast<uint64_t*>(buffer->data());
  std::fill_n(data, kCount, uint64_t{3});
  uint64_t total = 0;
  const Timing timing = Time(19, [&] {
    uint64_t sum = 0;
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 1) reduction(+ : sum)
    for (int64_t chunk = 0; chunk < kCount / kChunk; ++chunk) {
      sum += SumWords(data + chunk * kChunk, kChunk);
    }
    total += sum;
  });
  CHECK_EQ(total, 20 * 3 * static_cast<uint64_t>(kCount));  // keeps the sums
  return static_cast<double>(kCount) * 8.0 / timing.fastest;
}

double MeasureMatrixRate(const Stream& stream, DType dtype) {
  constexpr int64_t kSize = 1024;
  const OwnedTensor x(dtype, {kSize, kSize}), weight(dtype, {kSize, kSize});
  const OwnedTensor out(DType::kFloat32, {kSize, kSize});
  const Timing timing = Time(15, [&] { Gemm(stream, *x, *weight, Tensor(), *out); });
  return 2.0 * kSize * kSize * kSize / timing.fastest;
}

}  // namespace polystrate
