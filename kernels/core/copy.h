// Copies between host and device, or within either.
#pragma once

#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

// to = from, of the same size in bytes, both contiguous, each on the host or on stream.device().
// Enqueued; for a copy from or to host memory the host may go on at once if that memory is
// page-locked (Buffer::AllocatePinned), and must then leave it alone until the stream has come so
// far.
void Copy(const Stream& stream, const Tensor& from, const Tensor& to);

// The same without a stream, done on return; what is enqueued elsewhere is not waited for.
void CopyNow(const Tensor& from, const Tensor& to);

}  // namespace polystrate
