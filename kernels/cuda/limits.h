// What a GPU can do at best: for machine_limits.h, where the contracts are.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/cuda/context.h"

namespace polystrate::cuda {

// What the sweeps go through at a time: num_bytes is a multiple of it.
inline constexpr int64_t kSweepGrain = 256 * 1024;

// Reads num_bytes, 16-byte aligned, past the first-level cache. `sink`: 4 bytes on the device, left
// as they are unless the words happen to make a certain number.
void ReadSweep(const CudaContext& context, const void* data, int64_t num_bytes, uint32_t* sink);
// Copies num_bytes by a kernel's loads and stores.
void CopySweep(const CudaContext& context, const void* from, void* to, int64_t num_bytes);

// Seconds of what `work` enqueues, `repetitions` times, by events on the stream; waits for the
// stream at the end. `before`, where there is one, is enqueued ahead of each, unmeasured.
std::vector<double> TimeEach(const CudaContext& context, int repetitions,
                             const std::function<void()>& work,
                             const std::function<void()>& before);

}  // namespace polystrate::cuda
