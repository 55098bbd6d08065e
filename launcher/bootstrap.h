// Standard errors of what is measured on a sample of questions, as lm-evaluation-harness has them.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/types/span.h"

namespace polystrate {

double Mean(absl::Span<const double> values);
// Of a sample, so divided by n - 1; at least two values.
double StandardDeviation(absl::Span<const double> values);

// The standard deviation of `statistic`, a function of the mean, over num_resamples samples drawn
// with replacement (Efron 1979). The draws are those of CPython's random.choices, seeded with 0, 1,
// ... for each thousand, so that the result is lm-evaluation-harness's to the last digits and not
// one that scatters around it.
double BootstrapStandardError(absl::Span<const double> values,
                              const std::function<double(double mean)>& statistic,
                              int64_t num_resamples);

}  // namespace polystrate
