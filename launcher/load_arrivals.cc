#include "launcher/load_arrivals.h"

#include <cmath>
#include <random>

#include "kernels/core/check.h"

namespace polystrate {

std::vector<double> DrawArrivals(int64_t n, const ArrivalOptions& options) {
  CHECK(options.request_rate > 0 && options.burstiness > 0);
  std::vector<double> arrivals(static_cast<size_t>(n), 0.0);
  if (std::isinf(options.request_rate) || n == 0) return arrivals;
  std::mt19937_64 random(options.seed);
  std::gamma_distribution<double> gap(options.burstiness,
                                      1.0 / (options.request_rate * options.burstiness));
  double now = 0;
  for (double& arrival : arrivals) arrival = now += gap(random);
  // A small shape may draw nothing but zeros; then all come at once, at the end.
  const double end = static_cast<double>(n) / options.request_rate;
  for (double& arrival : arrivals) arrival = now > 0 ? arrival * (end / now) : end;
  return arrivals;
}

}  // namespace polystrate
