// The threads of a CUDA block, each a fiber of the calling operating system's thread, and the
// places where they wait for each other.
//
// A thread runs until it waits, so that warps, and the lanes of a warp, are as far apart as their
// barriers allow; blocks in turn run them forwards and backwards. What a barrier should have kept
// apart therefore meets poison, or the value that was written too soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <string>

#include "emulated/vector_types.h"

// Of the thread that runs.
extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;

namespace polystrate::emulator {

constexpr int kWarpSize = 32;
constexpr int kMaxThreads = 1024;  // of a block

struct KernelLaunch {
  const void* kernel = nullptr;  // for its name
  dim3 grid, block;
  size_t dynamic_shared_bytes = 0;
  bool early = false;          // may start before the kernel in front of it has ended
  std::function<void()> body;  // the kernel and its arguments: what every thread calls
};

// Runs every thread of every block to its end, one block after the other.
void RunGrid(const KernelLaunch& launch);

// Where the thread that runs is; null outside kernels.
struct Place {
  uint3 thread_index;
  int lane = 0;
};
extern constinit thread_local const Place* this_place;

// __syncthreads: until all threads of the block are here; returns in how many `predicate` holds.
// Ends the program when one of them has returned, or waits elsewhere.
int MeetBlock(bool predicate, const std::source_location& from);

// Until all lanes of `mask` that have not returned are here; the last to come calls combine with
// every lane's `data` (null: of a lane that is not in the mask or has returned). Ends the program
// when they do not all name the same mask, combine and place in the source.
using Combine = void (*)(void* const* data);
void MeetWarp(uint32_t mask, void* data, Combine combine, const std::source_location& from);

// cp.async: 16 bytes that arrive as late as they may, when WaitCopies asks for them; until then
// there is poison. `from` null: zeros.
void CopyAsync(void* to, const void* from);
void CommitCopies();
void WaitCopies(int num_pending);

// Until the phase of this parity of a barrier (phases.h) has ended.
void AwaitPhase(const uint64_t* barrier, uint32_t parity, const std::source_location& from);

// Until no other thread of the block can go on.
void LetOthersRun(const std::source_location& from);

// Of the thread that runs, in its block.
int ThreadNumber();

// griddepcontrol.wait: every thread of a kernel that may start early must have come here when it
// returns; the program ends where one has not.
void WaitForKernelBefore();

// Ends the program with `what`, the kernel, the block and the thread.
[[noreturn]] void KernelFault(const std::string& what);
// " in kernel K, block (0, 0, 0), thread (0, 0, 0)"; empty outside kernels.
std::string DescribePlace();

}  // namespace polystrate::emulator
