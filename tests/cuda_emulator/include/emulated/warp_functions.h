// What the lanes of a warp, and the threads of a block, do together.
#pragma once

#include <cstdint>
#include <cstring>
#include <source_location>

#include "tests/cuda_emulator/block.h"

using SourceLocation = std::source_location;

constexpr int warpSize = 32;

inline void __syncthreads(const SourceLocation& at = SourceLocation::current()) {
  polystrate::emulator::MeetBlock(false, at);
}
inline int __syncthreads_count(int predicate,
                               const SourceLocation& at = SourceLocation::current()) {
  return polystrate::emulator::MeetBlock(predicate != 0, at);
}
inline int __syncthreads_or(int predicate, const SourceLocation& at = SourceLocation::current()) {
  return polystrate::emulator::MeetBlock(predicate != 0, at) > 0;
}
inline int __syncthreads_and(int predicate, const SourceLocation& at = SourceLocation::current()) {
  return polystrate::emulator::MeetBlock(predicate == 0, at) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

namespace polystrate::emulator {

// What a lane brings to a meeting of its warp and takes from it.
template <typename T>
struct Exchange {
  T value;
  int source = 0;  // lane whose value is wanted
  T result;
};

template <typename T>
Exchange<T>* LaneOf(void* const* data, int lane) {
  return static_cast<Exchange<T>*>(data[lane]);
}

// A lane that is not there has only poison to give.
template <typename T>
T Shuffle(uint32_t mask, const T& value, int source, const std::source_location& at) {
  Exchange<T> mine = {value, source, value};
  MeetWarp(
      mask, &mine,
      [](void* const* data) {
        for (int lane = 0; lane < kWarpSize; ++lane) {
          if (data[lane] == nullptr) continue;
          Exchange<T>* to = LaneOf<T>(data, lane);
          if (data[to->source] == nullptr) {
            std::memset(&to->result, 0xff, sizeof(T));
          } else {
            to->result = LaneOf<T>(data, to->source)->value;
          }
        }
      },
      at);
  return mine.result;
}

// fold(a, b) over all lanes that are there, in their order.
template <auto kFold, typename T>
T Reduce(uint32_t mask, const T& value, const std::source_location& at) {
  Exchange<T> mine = {value, 0, value};
  MeetWarp(
      mask, &mine,
      [](void* const* data) {
        bool first = true;
        T result = {};
        for (int lane = 0; lane < kWarpSize; ++lane) {
          if (data[lane] == nullptr) continue;
          const T& next = LaneOf<T>(data, lane)->value;
          result = first ? next : static_cast<T>(kFold(result, next));
          first = false;
        }
        for (int lane = 0; lane < kWarpSize; ++lane) {
          if (data[lane] != nullptr) LaneOf<T>(data, lane)->result = result;
        }
      },
      at);
  return mine.result;
}

inline int Lane() { return this_place->lane; }
// First lane of this one's segment of `width`.
inline int SegmentBegin(int width) { return Lane() & ~(width - 1); }

}  // namespace polystrate::emulator

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = warpSize,
              const SourceLocation& at = SourceLocation::current()) {
  using namespace polystrate::emulator;
  return Shuffle(mask, value, SegmentBegin(width) | (source & (width - 1)), at);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = warpSize,
                 const SourceLocation& at = SourceLocation::current()) {
  using namespace polystrate::emulator;
  const int source = Lane() - static_cast<int>(delta);
  return Shuffle(mask, value, source < SegmentBegin(width) ? Lane() : source, at);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = warpSize,
                   const SourceLocation& at = SourceLocation::current()) {
  using namespace polystrate::emulator;
  const int source = Lane() + static_cast<int>(delta);
  return Shuffle(mask, value, source >= SegmentBegin(width) + width ? Lane() : source, at);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = warpSize,
                  const SourceLocation& at = SourceLocation::current()) {
  using namespace polystrate::emulator;
  const int source = Lane() ^ lane_mask;
  return Shuffle(mask, value, source >= SegmentBegin(width) + width ? Lane() : source, at);
}

inline void __syncwarp(uint32_t mask = 0xffffffffu,
                       const SourceLocation& at = SourceLocation::current()) {
  char nothing = 0;
  polystrate::emulator::MeetWarp(
      mask, &nothing, [](void* const*) {}, at);
}
inline unsigned __ballot_sync(uint32_t mask, int predicate,
                              const SourceLocation& at = SourceLocation::current()) {
  const unsigned mine = predicate != 0 ? 1u << polystrate::emulator::Lane() : 0u;
  return polystrate::emulator::Reduce<[](unsigned a, unsigned b) { return a | b; }>(mask, mine, at);
}
inline int __any_sync(uint32_t mask, int predicate,
                      const SourceLocation& at = SourceLocation::current()) {
  return polystrate::emulator::Reduce<[](int a, int b) { return a | b; }>(mask, predicate != 0, at);
}
inline int __all_sync(uint32_t mask, int predicate,
                      const SourceLocation& at = SourceLocation::current()) {
  return polystrate::emulator::Reduce<[](int a, int b) { return a & b; }>(mask, predicate != 0, at);
}
template <typename T>
unsigned __match_any_sync(uint32_t mask, T value,
                          const SourceLocation& at = SourceLocation::current()) {
  unsigned same = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    const T other = polystrate::emulator::Shuffle(mask, value, lane, at);
    if ((mask >> lane & 1u) != 0 && other == value) same |= 1u << lane;
  }
  return same;
}

// __reduce_*_sync: 32-bit integers only, as on the device.
#define EMULATED_REDUCE(name, T, expression)                                                    \
  inline T name(uint32_t mask, T value, const SourceLocation& at = SourceLocation::current()) { \
    return polystrate::emulator::Reduce<[](T a, T b) { return expression; }>(mask, value, at);  \
  }
EMULATED_REDUCE(__reduce_add_sync, unsigned, a + b)
EMULATED_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
EMULATED_REDUCE(__reduce_max_sync, unsigned, a < b ? b : a)
EMULATED_REDUCE(__reduce_add_sync, int, a + b)
EMULATED_REDUCE(__reduce_min_sync, int, a < b ? a : b)
EMULATED_REDUCE(__reduce_max_sync, int, a < b ? b : a)
EMULATED_REDUCE(__reduce_and_sync, unsigned, a& b)
EMULATED_REDUCE(__reduce_or_sync, unsigned, a | b)
EMULATED_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef EMULATED_REDUCE
