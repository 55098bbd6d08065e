// TokenHistory: which tokens a sequence holds and how often it generated them, for penalties.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "kernels/ops.h"

namespace polystrate {

class TokenHistory {
 public:
  // A token of the prompt.
  void AddPrompt(int32_t token_id) { At(token_id); }
  // A generated token.
  void Add(int32_t token_id) { ++At(token_id).count; }

  // Each token once, in the order of their first appearance.
  absl::Span<const TokenCount> counts() const { return counts_; }

 private:
  TokenCount& At(int32_t token_id) {
    const auto [found, added] = places_.try_emplace(token_id, counts_.size());
    if (added) counts_.push_back({token_id, 0});
    return counts_[found->second];
  }

  std::vector<TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> places_;  // in counts_
};

}  // namespace polystrate
