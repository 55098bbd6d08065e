// LoadOutcome: what became of one request of a load. Times are nanoseconds of the steady clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace polystrate {

// A message with tokens, when it arrived.
struct TokenArrival {
  int64_t at_ns = 0;
  int32_t num_tokens = 0;
};

struct LoadOutcome {
  int64_t index = 0;     // of the request in the load
  int64_t start_ns = 0;  // just before the call is made
  int64_t end_ns = 0;    // when the stream had ended
  std::vector<TokenArrival> arrivals;
  std::string text;
  int64_t prompt_tokens = 0;  // these three from the stream's usage, 0 for a request that failed
  int64_t completion_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  absl::Status status;  // OK after GenerationFinished alone
};

}  // namespace polystrate
