// A communicator that tells a RankActivity of every call made on it.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/rank_activity.h"

namespace polystrate {

// `activity` must outlive the result.
std::unique_ptr<Communicator> WatchCommunicator(std::unique_ptr<Communicator> group, GroupName name,
                                                RankActivity* activity);

}  // namespace polystrate
