#include "rpc/coordinator/prefix_index.h"

#include <algorithm>

#include "absl/strings/string_view.h"
#include "kernels/core/check.h"
#include "rpc/coordinator/stable_hash.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

constexpr size_t kChunkBytes = 64;  // of text, and of 16 ids of 4 bytes

uint64_t KeyOf(uint64_t hash, uint64_t engine) { return MixBits(hash ^ MixBits(engine)); }

absl::string_view BytesOf(const pb::GenerateRequest& request) {
  if (!request.has_token_ids()) return request.prompt();
  const auto& ids = request.token_ids().ids();
  return {reinterpret_cast<const char*>(ids.data()), static_cast<size_t>(ids.size()) * 4};
}

}  // namespace

PrefixHashes HashPrefix(const pb::GenerateRequest& request) {
  if (request.kv().bypass_prefix_cache()) return {};
  uint64_t hash = StableHash(request.kv().cache_salt(), request.has_token_ids() ? 1 : 2);
  hash = StableHash(request.lora_name(), hash);
  absl::string_view bytes = BytesOf(request);
  PrefixHashes hashes;
  hashes.reserve(bytes.size() / kChunkBytes);
  while (bytes.size() >= kChunkBytes) {
    hash = StableHash(bytes.substr(0, kChunkBytes), hash);
    hashes.push_back(hash);
    bytes.remove_prefix(kChunkBytes);
  }
  return hashes;
}

PrefixIndex::PrefixIndex(size_t capacity) : capacity_(capacity), entries_{{0, 0, 0}} {
  CHECK_GE(capacity, size_t{1});
}

int64_t PrefixIndex::Match(const PrefixHashes& hashes, uint64_t engine) const {
  const auto end = std::partition_point(hashes.begin(), hashes.end(), [&](uint64_t hash) {
    return places_.contains(KeyOf(hash, engine));
  });
  return end - hashes.begin();
}

void PrefixIndex::Use(const PrefixHashes& hashes, uint64_t engine) {
  for (size_t i = std::min(hashes.size(), capacity_); i-- > 0;) {
    const uint64_t key = KeyOf(hashes[i], engine);
    const auto found = places_.find(key);
    uint32_t place = 0;
    if (found != places_.end()) {
      place = found->second;
      Unlink(place);
    } else {
      if (places_.size() < capacity_) {
        place = static_cast<uint32_t>(entries_.size());
        entries_.emplace_back();
      } else {
        place = entries_[0].newer;
        Unlink(place);
        places_.erase(entries_[place].key);
      }
      entries_[place].key = key;
      places_.emplace(key, place);
    }
    LinkNewest(place);
  }
}

void PrefixIndex::Unlink(uint32_t place) {
  const Entry& entry = entries_[place];
  entries_[entry.older].newer = entry.newer;
  entries_[entry.newer].older = entry.older;
}

void PrefixIndex::LinkNewest(uint32_t place) {
  const uint32_t newest = entries_[0].older;
  entries_[place].older = newest;
  entries_[place].newer = 0;
  entries_[newest].newer = place;
  entries_[0].older = place;
}

}  // namespace polystrate
