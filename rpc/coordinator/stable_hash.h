// A 64-bit hash that is the same in every process, so that coordinators agree on where a key goes.
// Not for secrets: who wants two keys to collide can have it.
#pragma once

#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"

namespace polystrate {

// MurmurHash3's finaliser: a bijection that lets every input bit reach every output bit.
inline uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD;
  x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53;
  return x ^ (x >> 33);
}

inline uint64_t StableHash(absl::string_view bytes, uint64_t seed) {
  uint64_t hash = MixBits(seed + bytes.size());
  while (!bytes.empty()) {
    uint64_t word = 0;
    const size_t taken = bytes.size() < sizeof(word) ? bytes.size() : sizeof(word);
    std::memcpy(&word, bytes.data(), taken);
    // Odd, so that words in another order hash to something else.
    hash = MixBits(hash ^ word) + 0x9E3779B97F4A7C15;
    bytes.remove_prefix(taken);
  }
  return hash;
}

}  // namespace polystrate
