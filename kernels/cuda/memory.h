// Memory of GPUs and of the host that GPUs reach, for Buffer and Copy. Host code; compiled into the
// twin that the program is linked with (kernels/CMakeLists.txt).
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

struct CUstream_st;  // *: cudaStream_t

namespace polystrate::cuda {

int NumDevices();

// Zeroed. RESOURCE_EXHAUSTED, with the size and what is free, when it cannot be had.
absl::StatusOr<void*> Allocate(int device, int64_t num_bytes);
void Free(void* data);
absl::StatusOr<void*> AllocatePinned(int64_t num_bytes);
void FreePinned(void* data);

// Host to device, back, or within either; the second is done on return.
void CopyAsync(const void* from, void* to, int64_t num_bytes, CUstream_st* stream);
void Copy(int device, const void* from, void* to, int64_t num_bytes);

int64_t FreeMemory(int device);
// Asked of a GPU that the rank does not take, too: it makes no context there, which would cost each
// rank some 500 MB of that GPU.
int64_t TotalMemory(int device);

}  // namespace polystrate::cuda
