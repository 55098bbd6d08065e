// Copies between host and device, or within either.
#pragma once

#include <initializer_list>

#include "absl/types/span.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

// to = from, of the same size in bytes, both contiguous, each on the host or on stream.device().
// Enqueued; for a copy from or to host memory the host may go on at once if that memory is
// page-locked (Buffer::AllocatePinned), and must then leave it alone until the stream has come so
// far.
void Copy(const Stream& stream, const Tensor& from, const Tensor& to);

// Host values as a tensor on the stream's device: on the CPU the values themselves, on a GPU a copy
// that operators may read until 32 MiB more have been uploaded. Not while a graph is recorded.
Tensor Upload(const Stream& stream, absl::Span<const int32_t> values,
              std::initializer_list<int64_t> dims);

// to = host values, which may change on return; `to` is on stream.device(). Enqueued, as one copy,
// and not while a graph is recorded.
void UploadTo(const Stream& stream, absl::Span<const int32_t> values, const Tensor& to);

// Copy without a stream, done on return; what is enqueued elsewhere is not waited for.
void CopyNow(const Tensor& from, const Tensor& to);

}  // namespace polystrate
