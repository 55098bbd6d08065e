#include "rpc/coordinator/router.h"

#include <algorithm>
#include <tuple>

#include "kernels/core/check.h"
#include "rpc/coordinator/stable_hash.h"

namespace polystrate {
namespace {

constexpr int64_t kSlackTokens = 1024;
constexpr int64_t kLeastAdvantage = 2;  // chunks

using Indices = std::vector<size_t>;

// Those that are not to be avoided, or all when there are no others.
Indices Eligible(const std::vector<RouteCandidate>& candidates) {
  Indices eligible;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (!candidates[i].avoided) eligible.push_back(i);
  }
  if (!eligible.empty()) return eligible;
  for (size_t i = 0; i < candidates.size(); ++i) eligible.push_back(i);
  return eligible;
}

int64_t BoundOf(const std::vector<RouteCandidate>& candidates, const Indices& among) {
  double sum = 0;
  for (const size_t i : among) sum += static_cast<double>(candidates[i].load);
  const double mean = sum / static_cast<double>(among.size());
  return static_cast<int64_t>(1.25 * mean) + kSlackTokens;
}

auto ByTurn(const RouteCandidate& candidate) {
  return std::tuple(candidate.last_pick, candidate.target);
}

auto ByLoad(const RouteCandidate& candidate) {
  return std::tuple(candidate.load, candidate.last_pick, candidate.target);
}

// Rendezvous hashing: every key has an order of its own of all engines, so that one that comes or
// goes moves no key but its own.
uint64_t Weight(const RouteCandidate& candidate, absl::string_view routing_key) {
  return StableHash(candidate.target, StableHash(routing_key, 0));
}

// Takes out of `among` those whose prefix is two chunks shorter than the longest.
void KeepLongestPrefixes(const std::vector<RouteCandidate>& candidates, Indices* among) {
  int64_t longest = 0;
  for (const size_t i : *among) longest = std::max(longest, candidates[i].matched);
  std::erase_if(*among,
                [&](size_t i) { return candidates[i].matched + kLeastAdvantage <= longest; });
}

}  // namespace

int64_t LoadBound(const std::vector<RouteCandidate>& candidates) {
  return BoundOf(candidates, Eligible(candidates));
}

size_t ChooseEngine(RoutingPolicy policy, const std::vector<RouteCandidate>& candidates,
                    absl::string_view routing_key) {
  CHECK(!candidates.empty());
  Indices among = Eligible(candidates);
  const auto least = [&](auto key_of) {
    return *std::min_element(among.begin(), among.end(), [&](size_t a, size_t b) {
      return key_of(candidates[a]) < key_of(candidates[b]);
    });
  };
  if (policy == RoutingPolicy::kRoundRobin) return least(ByTurn);
  // Never empties: the least load is not above the mean.
  const int64_t bound = BoundOf(candidates, among);
  std::erase_if(among, [&](size_t i) { return candidates[i].load > bound; });
  if (!routing_key.empty()) {
    return least([&](const RouteCandidate& candidate) {
      return std::tuple(~Weight(candidate, routing_key), candidate.target);
    });
  }
  if (policy == RoutingPolicy::kPrefix) KeepLongestPrefixes(candidates, &among);
  return least(ByLoad);
}

}  // namespace polystrate
