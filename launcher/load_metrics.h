// What a load's outcomes say, in the words and by the definitions of `vllm bench serve`, so that
// figures stand beside each other.
//
//   TTFT   from just before the call is made to the first message with tokens.
//   E2EL   from there to the last message with tokens.
//   ITL    each gap between one message with tokens and the next. A server that is faster than its
//          reader merges tokens: a message is one gap however many it holds.
//   TPOT   (E2EL - TTFT) / (tokens - 1); requests with one token have none.
// TTFT and E2EL of a request that ends without a token end with its stream. Only requests that
// completed count, except in `failed`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/load_run.h"

namespace polystrate {

// What a request must meet to count as good, milliseconds; a limit that is not given is met.
struct Goodput {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2el_ms;
};

// From {"ttft:500", "tpot:50"}; INVALID_ARGUMENT says which part is wrong.
absl::StatusOr<Goodput> ParseGoodput(const std::vector<std::string>& parts);

// All 0 of no values.
struct Distribution {
  double mean = 0;
  double median = 0;
  double std = 0;                   // of the population
  std::vector<double> percentiles;  // those that were asked for
};

// Percentiles (of percents in [0, 100]) interpolate linearly between the two nearest ranks.
Distribution Distribute(std::vector<double> values, const std::vector<double>& percents);

// One request's, in seconds.
struct RequestTimes {
  double ttft = 0;
  double e2el = 0;
  double tpot = 0;  // 0 with less than two tokens
  std::vector<double> itls;
};
RequestTimes TimesOf(const LoadOutcome& outcome);

struct LoadMetrics {
  double duration = 0;  // seconds, from the start to the end of the last stream
  int64_t completed = 0;
  int64_t failed = 0;
  int64_t total_input_tokens = 0;
  int64_t total_output_tokens = 0;
  int64_t cached_prompt_tokens = 0;  // of the input tokens, found in the prefix cache
  double request_throughput = 0;     // these per second of duration
  std::optional<double> request_goodput;
  double output_throughput = 0;
  double total_token_throughput = 0;
  // Seconds are counted from the first request's start. The most tokens that came in one, and the
  // most requests that were open at any time in one: that may be more than were open at once.
  double max_output_tokens_per_s = 0;
  int64_t max_concurrent_requests = 0;
  Distribution ttft_ms, tpot_ms, itl_ms, e2el_ms;
};

LoadMetrics ComputeLoadMetrics(const LoadRun& run, const std::vector<double>& percents,
                               const std::optional<Goodput>& goodput);

}  // namespace polystrate
