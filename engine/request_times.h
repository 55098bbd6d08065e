// RequestTimes: when the stations of one request were passed, from which its latencies follow.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace polystrate {

// Timeline::NowNs(); 0: not yet.
struct RequestTimes {
  int64_t arrival = 0;
  int64_t first_scheduled = 0;
  int64_t first_token = 0;  // of any output
  int64_t last_token = 0;
  std::vector<int64_t> last_token_of;  // each output
  int64_t num_gaps = 0;                // between tokens of one output
  int64_t sum_of_gaps = 0;

  // From arrival to the first step; zero when there was none.
  absl::Duration QueueTime() const {
    return absl::Nanoseconds(first_scheduled == 0 ? 0 : first_scheduled - arrival);
  }
};

}  // namespace polystrate
