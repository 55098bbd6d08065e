// Barriers in shared memory, "mbarriers" (kernels/cuda/warpgroup.cuh), of which `barrier` is the
// state: phase after phase, each of which ends when `count` threads have arrived.
#pragma once

#include <cstdint>

namespace polystrate::emulator {

void InitBarrier(uint64_t* barrier, int count);
// These end the program where nobody has initialised the barrier.
void Arrive(uint64_t* barrier);
bool PhaseHasEnded(const uint64_t* barrier, uint32_t parity);

}  // namespace polystrate::emulator
