// When the requests of an open-loop load are sent: a gamma process, which includes Poisson's.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace polystrate {

struct ArrivalOptions {
  double request_rate = std::numeric_limits<double>::infinity();  // per second, > 0
  // The gaps' gamma shape, > 0: 1 has them exponential (Poisson), below 1 arrivals come in bursts,
  // above they are more even. The gaps' coefficient of variation is 1 / sqrt(burstiness).
  double burstiness = 1.0;
  uint64_t seed = 0;
};

// Seconds after the start, ascending; all 0 when the rate is infinite. Gaps are drawn, then all are
// scaled so that the last of the n requests comes at n / request_rate: the rate of a short run is
// then the one that was asked for, as `vllm bench serve` has it.
std::vector<double> DrawArrivals(int64_t n, const ArrivalOptions& options);

}  // namespace polystrate
