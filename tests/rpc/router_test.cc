#include "rpc/coordinator/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace polystrate {
namespace {

using Candidates = std::vector<RouteCandidate>;

const std::string kTargets[] = {"a:1", "b:1", "c:1", "d:1", "e:1", "f:1", "g:1", "h:1"};

Candidates RandomCandidates(std::mt19937_64& random) {
  const auto below = [&random](uint64_t end) { return static_cast<int64_t>(random() % end); };
  Candidates candidates(static_cast<size_t>(1 + below(8)));
  for (size_t i = 0; i < candidates.size(); ++i) {
    candidates[i].target = kTargets[i];
    candidates[i].load = below(2) == 0 ? below(3) : below(20'000);
    candidates[i].matched = below(2) == 0 ? 0 : below(100);
    candidates[i].last_pick = static_cast<uint64_t>(below(4));
    candidates[i].avoided = below(4) == 0;
  }
  std::shuffle(candidates.begin(), candidates.end(), random);
  return candidates;
}

// Of those that may have the request.
Candidates Allowed(const Candidates& candidates) {
  Candidates allowed;
  for (const RouteCandidate& candidate : candidates) {
    if (!candidate.avoided) allowed.push_back(candidate);
  }
  return allowed.empty() ? candidates : allowed;
}

TEST(RouterTest, KeepsItsPromisesOnAnySnapshot) {
  std::mt19937_64 random(7);
  int by_affinity = 0;
  for (int round = 0; round < 20'000; ++round) {
    const Candidates candidates = RandomCandidates(random);
    const Candidates allowed = Allowed(candidates);
    const std::string key = round % 3 == 0 ? "session-" + std::to_string(round) : "";
    for (const RoutingPolicy policy :
         {RoutingPolicy::kPrefix, RoutingPolicy::kLeastLoad, RoutingPolicy::kRoundRobin}) {
      const RouteCandidate& chosen = candidates[ChooseEngine(policy, candidates, key)];
      const bool all_avoided =
          std::all_of(candidates.begin(), candidates.end(),
                      [](const RouteCandidate& candidate) { return candidate.avoided; });
      EXPECT_TRUE(!chosen.avoided || all_avoided);
      if (policy == RoutingPolicy::kRoundRobin) {
        for (const RouteCandidate& other : allowed) EXPECT_LE(chosen.last_pick, other.last_pick);
        continue;
      }
      EXPECT_LE(chosen.load, LoadBound(candidates));
      for (const RouteCandidate& other : allowed) {
        if (!key.empty() || other.load >= chosen.load) continue;
        // Passed by though it has less to do: only for a longer prefix.
        EXPECT_EQ(policy, RoutingPolicy::kPrefix);
        EXPECT_GE(chosen.matched, other.matched + 1);
        ++by_affinity;
      }
      Candidates shuffled = candidates;
      std::shuffle(shuffled.begin(), shuffled.end(), random);
      EXPECT_EQ(shuffled[ChooseEngine(policy, shuffled, key)].target, chosen.target)
          << "the order of the candidates must not matter";
    }
  }
  EXPECT_GT(by_affinity, 1000);
}

TEST(RouterTest, PrefersTheLongestPrefixUntilItsEngineIsFull) {
  Candidates candidates(2);
  candidates[0] = {"a:1", 0, 0, 1, false};
  candidates[1] = {"b:1", 2000, 50, 2, false};
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kPrefix, candidates, ""), 1u);
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kLeastLoad, candidates, ""), 0u);
  candidates[1].load = 3000;  // above 1.25 * 1500 + 1024
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kPrefix, candidates, ""), 0u);
  candidates[0].load = 2900;  // both are busy: 3000 is within the bound again
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kPrefix, candidates, ""), 1u);
}

TEST(RouterTest, AChunkIsNoReason) {
  Candidates candidates(2);
  candidates[0] = {"a:1", 10, 7, 1, false};
  candidates[1] = {"b:1", 20, 8, 2, false};
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kPrefix, candidates, ""), 0u);
  candidates[1].matched = 9;
  EXPECT_EQ(ChooseEngine(RoutingPolicy::kPrefix, candidates, ""), 1u);
}

TEST(RouterTest, EqualEnginesTakeTurns) {
  Candidates candidates(3);
  for (size_t i = 0; i < 3; ++i) candidates[i].target = kTargets[i];
  for (const RoutingPolicy policy :
       {RoutingPolicy::kPrefix, RoutingPolicy::kLeastLoad, RoutingPolicy::kRoundRobin}) {
    for (RouteCandidate& candidate : candidates) candidate.last_pick = 0;
    for (uint64_t pick = 1; pick <= 30; ++pick) {
      const size_t chosen = ChooseEngine(policy, candidates, "");
      EXPECT_EQ(chosen, (pick - 1) % 3);
      candidates[chosen].last_pick = pick;
    }
  }
}

TEST(RouterTest, AKeyStaysAndMovesOnlyWithItsEngine) {
  Candidates candidates(5);
  for (size_t i = 0; i < 5; ++i) candidates[i].target = kTargets[i];
  std::map<std::string, absl::string_view> home;
  std::map<absl::string_view, int> keys_at;
  for (int i = 0; i < 5000; ++i) {
    const std::string key = "user-" + std::to_string(i);
    home[key] = candidates[ChooseEngine(RoutingPolicy::kPrefix, candidates, key)].target;
    ++keys_at[home[key]];
  }
  for (const auto& [target, keys] : keys_at) EXPECT_NEAR(keys, 1000, 150) << target;
  Candidates fewer(candidates.begin(), candidates.end() - 1);
  for (const auto& [key, target] : home) {
    const absl::string_view now = fewer[ChooseEngine(RoutingPolicy::kPrefix, fewer, key)].target;
    EXPECT_TRUE(now == target || target == kTargets[4]) << key;
  }
  // A key whose engine is full goes elsewhere, and comes back.
  candidates[0].load = 100'000;
  for (const auto& [key, target] : home) {
    const auto now = candidates[ChooseEngine(RoutingPolicy::kPrefix, candidates, key)].target;
    EXPECT_EQ(now == target, target != kTargets[0]) << key;
  }
}

// Requests of a few popular prefixes, none of which ends: what affinity piles up is bounded.
TEST(RouterTest, PopularPrefixesDoNotOverloadAnEngine) {
  std::mt19937_64 random(11);
  Candidates candidates(4);
  for (size_t i = 0; i < 4; ++i) candidates[i].target = kTargets[i];
  std::vector<std::vector<bool>> cached(4, std::vector<bool>(3));
  int hits = 0;
  constexpr int kRequests = 4000;
  constexpr int64_t kMost = 600;
  for (int i = 0; i < kRequests; ++i) {
    // Nine of ten have the first prefix.
    const size_t prefix = random() % 10 == 0 ? 1 + random() % 2 : 0;
    for (size_t e = 0; e < 4; ++e) candidates[e].matched = cached[e][prefix] ? 20 : 0;
    const size_t chosen = ChooseEngine(RoutingPolicy::kPrefix, candidates, "");
    hits += cached[chosen][prefix] ? 1 : 0;
    cached[chosen][prefix] = true;
    candidates[chosen].load += 1 + static_cast<int64_t>(random() % kMost);
    candidates[chosen].last_pick = static_cast<uint64_t>(i) + 1;
    EXPECT_LE(candidates[chosen].load, LoadBound(candidates) + kMost);
  }
  EXPECT_GE(hits, kRequests - 12);
}

}  // namespace
}  // namespace polystrate
