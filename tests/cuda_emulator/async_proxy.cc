#include "tests/cuda_emulator/async_proxy.h"

#include <array>
#include <cstdint>
#include <vector>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/shared_memory.h"

namespace polystrate::emulator {
namespace {

constexpr uint32_t kPieceBytes = 16;
constexpr int kNobody = -1;

// Of the block that the calling operating system's thread runs.
struct Writes {
  // By piece: the thread whose write has not been fenced.
  std::array<int16_t, (1 << 18) / kPieceBytes> writer;
  std::array<std::vector<uint32_t>, kMaxThreads> pieces;  // by thread: those it may yet fence
  bool any = true;
};
thread_local Writes writes;

}  // namespace

void ForgetWrites() {
  if (!writes.any) return;
  writes.writer.fill(kNobody);
  for (auto& pieces : writes.pieces) pieces.clear();
  writes.any = false;
}

void RecordWrite(const void* to) {
  const uint32_t address = SharedAddress(to);
  if (address == 0) return;
  const int thread = ThreadNumber();
  writes.writer[address / kPieceBytes] = static_cast<int16_t>(thread);
  writes.pieces[thread].push_back(address / kPieceBytes);
  writes.any = true;
}

void FenceProducts() {
  const int thread = ThreadNumber();
  for (const uint32_t piece : writes.pieces[thread]) {
    if (writes.writer[piece] == thread) writes.writer[piece] = kNobody;
  }
  writes.pieces[thread].clear();
}

void TellOfWrites() { writes.pieces[ThreadNumber()].clear(); }

bool ProductsSee(const void* at) {
  return writes.writer[SharedAddress(at) / kPieceBytes] == kNobody;
}

}  // namespace polystrate::emulator
