#include "kernels/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "kernels/core/copy.h"
#include "kernels/cuda/limits.h"
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

Buffer AllocateOrDie(Device device, int64_t num_bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(device, num_bytes);
  CHECK(buffer.ok());
  return *std::move(buffer);
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

Timing Time(const Stream& stream, int repetitions, const std::function<void()>& work,
            const std::function<void()>& before) {
  work();
  if (stream.device().type == DeviceType::kCuda) {
    return Summarize(cuda::TimeEach(stream.cuda(), repetitions, work, before));
  }
  std::vector<double> seconds;
  for (int i = 0; i < repetitions; ++i) {
    if (before) before();
    const double start = Now();
    work();
    seconds.push_back(Now() - start);
  }
  return Summarize(std::move(seconds));
}

OwnedTensor::OwnedTensor(DType dtype, std::initializer_list<int64_t> dims, Device device) {
  const int64_t size = Tensor(nullptr, dtype, Device{}, dims).num_bytes();
  Buffer host = AllocateOrDie(Device{}, size);
  const Tensor filled(host.data(), dtype, Device{}, dims);
  uint32_t state = 1;
  for (int64_t i = 0; i < filled.num_elements(); ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * 0.1f;
    if (dtype == DType::kFloat32) filled.data<float>()[i] = value;
    if (dtype == DType::kBFloat16) filled.data<BFloat16>()[i] = BFloat16::FromFloat(value);
    if (dtype == DType::kFloat16) filled.data<Float16>()[i] = Float16::FromFloat(value);
  }
  buffer_ = device.type == DeviceType::kCpu ? std::move(host) : AllocateOrDie(device, size);
  tensor_ = Tensor(buffer_.data(), dtype, device, dims);
  if (device.type != DeviceType::kCpu) CopyNow(filled, tensor_);
}

MemorySweep::MemorySweep(int num_threads, int64_t num_bytes) : num_threads_(num_threads) {
  CHECK_EQ(num_bytes % (kSweepChunk * 8), 0);
  buffer_ = AllocateOrDie(Device{}, num_bytes);
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

GpuSweep::GpuSweep(const Stream& stream, int64_t num_bytes)
    : stream_(stream),
      buffer_(AllocateOrDie(stream.device(), num_bytes)),
      sink_(AllocateOrDie(stream.device(), sizeof(uint32_t))) {
  CHECK_EQ(num_bytes % (2 * cuda::kSweepGrain), 0);
  // Random bits, as those of weights: memory may be quicker with the zeros of a new buffer.
  constexpr int64_t kPattern = 2 * cuda::kSweepGrain;
  const OwnedTensor pattern(DType::kFloat32, {kPattern / SizeOf(DType::kFloat32)});
  const auto bytes = [&](int64_t begin, int64_t count) {
    return Tensor(static_cast<char*>(buffer_.data()) + begin, DType::kFloat32, stream.device(),
                  {count / SizeOf(DType::kFloat32)});
  };
  CopyNow(*pattern, bytes(0, kPattern));
  for (int64_t done = kPattern; done < num_bytes; done *= 2) {
    const int64_t count = std::min(done, num_bytes - done);
    CopyNow(bytes(0, count), bytes(done, count));
  }
}

void GpuSweep::Read() const {
  cuda::ReadSweep(stream_.cuda(), buffer_.data(), buffer_.num_bytes(),
                  static_cast<uint32_t*>(sink_.data()));
}

void GpuSweep::Copy() const {
  const int64_t half = buffer_.num_bytes() / 2;
  cuda::CopySweep(stream_.cuda(), buffer_.data(), static_cast<char*>(buffer_.data()) + half, half);
}

double MeasureReadBandwidth(const Stream& gpu, int64_t num_bytes) {
  const GpuSweep sweep(gpu, num_bytes);
  return static_cast<double>(num_bytes) / Time(gpu, 19, [&] { sweep.Read(); }).fastest;
}

double MeasureCopyBandwidth(const Stream& gpu, int64_t num_bytes) {
  const GpuSweep sweep(gpu, num_bytes);
  return static_cast<double>(num_bytes) / Time(gpu, 19, [&] { sweep.Copy(); }).fastest;
}

double MeasureMatrixRate(const Stream& stream, DType dtype, std::optional<int64_t> size_or_none) {
  const Device device = stream.device();
  const bool on_cpu = device.type == DeviceType::kCpu;
  const int64_t size = size_or_none.value_or(on_cpu ? 1024 : 8192);
  const OwnedTensor x(dtype, {size, size}, device), weight(dtype, {size, size}, device);
  const OwnedTensor out(on_cpu ? DType::kFloat32 : dtype, {size, size}, device);
  const Timing timing = Time(stream, 15, [&] { Gemm(stream, *x, *weight, Tensor(), *out); });
  return 2.0 * static_cast<double>(size * size * size) / timing.fastest;
}

}  // namespace polystrate
