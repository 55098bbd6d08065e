#include "tests/cuda_emulator/phases.h"

#include <bit>

#include "tests/cuda_emulator/async_proxy.h"
#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::emulator {
namespace {

struct Phases {
  uint16_t mark;
  uint16_t count;    // of threads that end a phase
  uint16_t pending;  // of them have not arrived
  uint16_t phase;
};
constexpr uint16_t kMark = 0xba44;

Phases Read(const uint64_t* barrier) {
  const auto phases = std::bit_cast<Phases>(*barrier);
  if (phases.mark != kMark) KernelFault("a barrier that nobody has initialised");
  return phases;
}

}  // namespace

void InitBarrier(uint64_t* barrier, int count) {
  if (!InSharedMemory(barrier, sizeof(*barrier))) {
    KernelFault("initialises a barrier that is not shared memory");
  }
  const auto threads = static_cast<uint16_t>(count);
  *barrier = std::bit_cast<uint64_t>(Phases{kMark, threads, threads, 0});
}

void Arrive(uint64_t* barrier) {
  TellOfWrites();
  Phases phases = Read(barrier);
  if (--phases.pending == 0) {
    phases.pending = phases.count;
    ++phases.phase;
  }
  *barrier = std::bit_cast<uint64_t>(phases);
}

bool PhaseHasEnded(const uint64_t* barrier, uint32_t parity) {
  return Read(barrier).phase % 2 != parity;
}

}  // namespace polystrate::emulator
