#include "kernels/core/copy.h"

#include <cstring>

#include "kernels/cuda/context.h"
#include "kernels/cuda/memory.h"

namespace polystrate {
namespace {

// Whether there is anything to copy.
bool Check(const Tensor& from, const Tensor& to) {
  CHECK_EQ(from.num_bytes(), to.num_bytes());
  if (from.num_bytes() == 0) return false;
  CHECK(from.contiguous() && to.contiguous());
  return true;
}

}  // namespace

void Copy(const Stream& stream, const Tensor& from, const Tensor& to) {
  if (!Check(from, to)) return;
  if (stream.device().type == DeviceType::kCuda) {
    cuda::CopyAsync(from.raw(), to.raw(), from.num_bytes(), stream.cuda().stream());
  } else {
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.num_bytes()));
  }
}

Tensor Upload(const Stream& stream, absl::Span<const int32_t> values,
              std::initializer_list<int64_t> dims) {
  const void* data = values.data();
  if (stream.device().type == DeviceType::kCuda) data = stream.cuda().Upload(values);
  return Tensor(const_cast<void*>(data), DType::kInt32, stream.device(), dims);
}

void UploadTo(const Stream& stream, absl::Span<const int32_t> values, const Tensor& to) {
  const Tensor from(const_cast<int32_t*>(values.data()), DType::kInt32, Device{},
                    {static_cast<int64_t>(values.size())});
  if (!Check(from, to)) return;
  if (stream.device().type == DeviceType::kCuda) {
    stream.cuda().UploadTo(to.raw(), from.raw(), from.num_bytes());
  } else {
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.num_bytes()));
  }
}

void CopyNow(const Tensor& from, const Tensor& to) {
  if (!Check(from, to)) return;
  for (const Tensor& side : {from, to}) {
    if (side.device().type == DeviceType::kCuda) {
      return cuda::Copy(side.device().index, from.raw(), to.raw(), from.num_bytes());
    }
  }
  std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.num_bytes()));
}

}  // namespace polystrate
