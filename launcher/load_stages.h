// What each pipeline stage of an engine did during a load, from polystrate.v1.Admin.GetStages.
#pragma once

#include <memory>
#include <vector>

#include "grpcpp/grpcpp.h"

namespace polystrate {

// Of one stage, summed over its ranks, since the engine has started.
struct StageTime {
  double busy_seconds = 0;
  double waiting_seconds = 0;  // the engine had a step under way, this stage nothing to do
};

// By stage, up to date: takes half a second, the age that an engine's figures may have. Empty, at
// once, when the target has no Admin service or does not answer.
std::vector<StageTime> AskStageTimes(const std::shared_ptr<grpc::Channel>& channel);

// By stage, the share of waiting_seconds in what passed from one to the other; 0 for a stage in
// which nothing did. Empty unless both are of the same engine.
std::vector<double> BubbleShares(const std::vector<StageTime>& before,
                                 const std::vector<StageTime>& after);

}  // namespace polystrate
