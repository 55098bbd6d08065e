// PrefixIndex: which engine has seen the beginning of a prompt, so that the prompt can go where its
// K and V are. What a coordinator sent is all it knows: engines drop blocks without a word, so a
// hit is likely, not certain, and the oldest entries are forgotten.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "openengine_generate.pb.h"

namespace polystrate {

// Tokens that a chunk of a prompt is; of text about, at four bytes each.
inline constexpr int64_t kTokensPerChunk = 16;

// hashes[i] stands for the prompt's first i + 1 chunks: of 64 bytes of text or 16 token ids; what
// is left at the end is no chunk. Salted with cache_salt, LoRA and the kind of prompt. Empty for a
// request that bypasses the cache. The model is not in it: an engine has one.
using PrefixHashes = std::vector<uint64_t>;
PrefixHashes HashPrefix(const openengine::v1::GenerateRequest& request);

// One thread at a time. An engine is a number that one process of it has alone: nobody asks for
// the number of one that is gone, so its entries are the first to be forgotten.
//
// Invariant: with a chunk an engine has all chunks before it, for they are used with it, and last.
class PrefixIndex {
 public:
  // Some 60 bytes each: 60 MB for what is 16 million tokens.
  static constexpr size_t kCapacity = 1 << 20;

  explicit PrefixIndex(size_t capacity = kCapacity);  // entries over all engines, at least 1

  // How many chunks of the prompt `engine` has seen, from its first on.
  int64_t Match(const PrefixHashes& hashes, uint64_t engine) const;
  // `engine` gets the prompt.
  void Use(const PrefixHashes& hashes, uint64_t engine);

  size_t size() const { return places_.size(); }

 private:
  struct Entry {
    uint64_t key;
    uint32_t older;
    uint32_t newer;
  };
  void Unlink(uint32_t place);
  void LinkNewest(uint32_t place);

  const size_t capacity_;
  absl::flat_hash_map<uint64_t, uint32_t> places_;  // of a chunk and an engine, in entries_
  std::vector<Entry> entries_;  // [0] closes the ring: newer is the oldest, older the newest
};

}  // namespace polystrate
