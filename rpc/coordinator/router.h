// Routing: which of the engines that serve gets a request. Pure: the same candidates, the same
// choice.
//
// Load is what an engine has still to do, in tokens. Affinity, to the engine that has the prompt's
// beginning in its cache or that a key belongs to, is worth some waiting and no more: an engine
// above LoadBound() does not get a request by it ("Consistent Hashing with Bounded Loads",
// Mirrokni, Thorup and Zadimoghaddam, arXiv:1608.01350).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace polystrate {

enum class RoutingPolicy : uint8_t {
  kPrefix,      // affinity within the bound, then the least load
  kLeastLoad,   // the same without prefixes
  kRoundRobin,  // whoever's turn it is: to compare with
};

struct RouteCandidate {
  absl::string_view target;
  int64_t load = 0;        // tokens
  int64_t matched = 0;     // chunks of the prompt that are in its cache
  uint64_t last_pick = 0;  // the higher, the later; 0: never
  bool avoided = false;    // gets the request only if all are
};

// 1.25 times the mean, and 1,024 tokens.
//
// The factor: the load that affinity may pile up is within a quarter of an even share, so the
// longest queue is about a quarter longer than the best possible; with a smaller one almost every
// popular prefix spills over all engines, as the paper's price, 1 / (factor - 1)^2 moves for each
// engine that comes or goes, also says. The slack: two steps as engines have them (512 tokens).
// Where there is that little to do, waiting costs less than a prompt that is computed again, and
// a mean of a few tokens is noise.
int64_t LoadBound(const std::vector<RouteCandidate>& candidates);

// An index of `candidates`, of which there must be one. `routing_key` is empty for none and goes
// before prefixes. A prefix counts if it is two chunks longer than the others' in reach: less is
// what any two prompts share. Of equals the one that was picked longest ago, then the first by
// target.
size_t ChooseEngine(RoutingPolicy policy, const std::vector<RouteCandidate>& candidates,
                    absl::string_view routing_key);

}  // namespace polystrate
