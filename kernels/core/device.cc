#include "kernels/core/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/cpu/context.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/graph_recorder.h"
#include "kernels/cuda/memory.h"

namespace polystrate {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

// What a buffer of num_bytes maps: whole huge pages from one of their size on, because streaming
// weights and cache through 4 KiB pages costs a tenth of the bandwidth and more.
int64_t MappedBytes(int64_t num_bytes) {
  if (num_bytes < kHugePage) return std::max<int64_t>(num_bytes, 1);
  return (num_bytes + kHugePage - 1) / kHugePage * kHugePage;
}

absl::Status OutOfMemory(int64_t num_bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate ", num_bytes, " bytes of host memory"));
}

void* Map(int64_t num_bytes) {
  return mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

// A mapping that begins on a huge page: one page too many, then both ends are given back.
void* MapAligned(int64_t num_bytes) {
  void* data = Map(num_bytes + kHugePage);
  if (data == MAP_FAILED) return data;
  char* begin = static_cast<char*>(data);
  const auto before = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(begin) % kHugePage);
  if (before > 0) munmap(begin, before);
  if (before < kHugePage) munmap(begin + before + num_bytes, kHugePage - before);
  madvise(begin + before, num_bytes, MADV_HUGEPAGE);  // a refusal does not matter
  return begin + before;
}

}  // namespace

Stream::Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

Stream Stream::Cpu(int num_threads) {
  CHECK_GE(num_threads, 1);
  Stream stream;
  stream.cpu_ = std::make_unique<CpuContext>(num_threads);
  return stream;
}

absl::StatusOr<Stream> Stream::Cuda(int index) {
  Stream stream;
  absl::StatusOr<std::unique_ptr<CudaContext>> context = CudaContext::Create(index);
  if (!context.ok()) return context.status();
  stream.device_ = {DeviceType::kCuda, index};
  stream.cuda_ = *std::move(context);
  return stream;
}

int Stream::num_threads() const { return cpu_->num_threads(); }

void Stream::Synchronize() const {
  if (cuda_ != nullptr) cuda_->Synchronize();
}

void Stream::OnHost(std::function<void()> work) const {
  if (cuda_ != nullptr && cuda_->recording()) {
    cuda_->recorder()->OnHost(std::move(work));
  } else {
    work();
  }
}

int NumCudaDevices() { return cuda::NumDevices(); }

absl::StatusOr<Buffer> Buffer::Allocate(Device device, int64_t num_bytes) {
  CHECK_GE(num_bytes, 0);
  // Far from overflow, and more than any machine has.
  if (num_bytes > int64_t{1} << 56) return OutOfMemory(num_bytes);
  Buffer buffer;
  buffer.num_bytes_ = num_bytes;
  if (device.type == DeviceType::kCuda) {
    absl::StatusOr<void*> data = cuda::Allocate(device.index, num_bytes);
    if (!data.ok()) return data.status();
    buffer.data_ = *data;
    buffer.kind_ = Kind::kCuda;
    return buffer;
  }
  // A mapping of its own is zeroed, and costs nothing until it is touched.
  const int64_t mapped = MappedBytes(num_bytes);
  buffer.data_ = mapped < kHugePage ? Map(mapped) : MapAligned(mapped);
  if (buffer.data_ == MAP_FAILED) {
    buffer.data_ = nullptr;
    return OutOfMemory(num_bytes);
  }
  return buffer;
}

absl::StatusOr<Buffer> Buffer::AllocatePinned(int64_t num_bytes) {
  if (NumCudaDevices() == 0) return Allocate(Device{}, num_bytes);
  CHECK_GE(num_bytes, 0);
  absl::StatusOr<void*> data = cuda::AllocatePinned(num_bytes);
  if (!data.ok()) return data.status();
  Buffer buffer;
  buffer.data_ = *data;
  buffer.num_bytes_ = num_bytes;
  buffer.kind_ = Kind::kPinned;
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(num_bytes_, other.num_bytes_);
  std::swap(kind_, other.kind_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  switch (kind_) {
    case Kind::kHost:
      munmap(data_, MappedBytes(num_bytes_));
      break;
    case Kind::kPinned:
      cuda::FreePinned(data_);
      break;
    case Kind::kCuda:
      cuda::Free(data_);
      break;
  }
}

}  // namespace polystrate
