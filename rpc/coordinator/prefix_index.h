// PrefixIndex: which engine has seen the beginning of a prompt, so that the prompt can go where its
// K and V are. What a coordinator sent is all it knows: engines drop blocks without a word, so a
// hit is likely, not certain, and the oldest entries are forgotten.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "openengine_generate.pb.h"

namespace polystrate {

// hashes[i] stands for the prompt's first i + 1 chunks: of 64 bytes of text or 16 token ids. Salted
// with model, cache_salt and the kind of prompt. Empty for a request that bypasses the cache.
using PrefixHashes = std::vector<uint64_t>;
PrefixHashes HashPrefix(const openengine::v1::GenerateRequest& request);

}  // namespace polystrate
