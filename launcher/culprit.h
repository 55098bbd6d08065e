// Which rank is to blame when a step does not end.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/rank_table.h"

namespace polystrate {

// The rank that keeps the others waiting, as far as can be told: one that is silent; else one that
// is at work, or waits although what it waits for has been sent; else, when all wait for one
// another, any. Of several the one that has done so the longest.
int FindCulprit(const std::vector<RankStatus>& ranks, const std::optional<PlansUnderWay>& plans);

// "rank 3 (stage 1, tp 1) on host-b, pid 77: in all-reduce 96 of tp for 1.2 s, ..."
std::string Describe(const RankStatus& status, int pp_size);

}  // namespace polystrate
