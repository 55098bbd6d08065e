#include "launcher/load_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace polystrate {
namespace {

constexpr double kMilli = 1e3;
constexpr int64_t kNsPerSecond = 1'000'000'000;

double Seconds(int64_t from_ns, int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) * 1e-9;
}

// `sorted` is not empty.
double Percentile(const std::vector<double>& sorted, double percent) {
  const double rank = percent / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (rank - static_cast<double>(below));
}

bool IsGood(const RequestTimes& times, const Goodput& goodput) {
  const auto meets = [](double seconds, const std::optional<double>& limit_ms) {
    return !limit_ms.has_value() || seconds * kMilli <= *limit_ms;
  };
  return meets(times.ttft, goodput.ttft_ms) && meets(times.tpot, goodput.tpot_ms) &&
         meets(times.e2el, goodput.e2el_ms);
}

// Tokens and open requests by second since the first start.
void FindPeaks(const LoadRun& run, LoadMetrics* metrics) {
  int64_t first = run.end_ns;
  for (const LoadOutcome& outcome : run.outcomes) {
    if (outcome.status.ok()) first = std::min(first, outcome.start_ns);
  }
  const auto second = [first](int64_t ns) {
    return static_cast<size_t>((ns - first) / kNsPerSecond);
  };
  std::vector<int64_t> tokens(second(run.end_ns) + 1);
  std::vector<int64_t> open(tokens.size());
  for (const LoadOutcome& outcome : run.outcomes) {
    if (!outcome.status.ok()) continue;
    for (const TokenArrival& arrival : outcome.arrivals) {
      tokens[second(arrival.at_ns)] += arrival.num_tokens;
    }
    for (size_t s = second(outcome.start_ns); s <= second(outcome.end_ns); ++s) ++open[s];
  }
  metrics->max_output_tokens_per_s =
      static_cast<double>(*std::max_element(tokens.begin(), tokens.end()));
  metrics->max_concurrent_requests = *std::max_element(open.begin(), open.end());
}

}  // namespace

absl::StatusOr<Goodput> ParseGoodput(const std::vector<std::string>& parts) {
  Goodput goodput;
  for (const std::string& part : parts) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(part, absl::MaxSplits(':', 1));
    std::optional<double>* limit = pair.first == "ttft"   ? &goodput.ttft_ms
                                   : pair.first == "tpot" ? &goodput.tpot_ms
                                   : pair.first == "e2el" ? &goodput.e2el_ms
                                                          : nullptr;
    double milliseconds = 0;
    if (limit == nullptr || !absl::SimpleAtod(pair.second, &milliseconds) ||
        !(milliseconds >= 0.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--goodput: \"", part,
                       "\" is no limit; it takes ttft:MS, tpot:MS and e2el:MS, at least 0"));
    }
    *limit = milliseconds;
  }
  return goodput;
}

Distribution Distribute(std::vector<double> values, const std::vector<double>& percents) {
  Distribution result;
  if (values.empty()) {
    result.percentiles.assign(percents.size(), 0.0);
    return result;
  }
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.std = std::sqrt(squares / n);
  result.median = Percentile(values, 50.0);
  for (const double percent : percents) result.percentiles.push_back(Percentile(values, percent));
  return result;
}

RequestTimes TimesOf(const LoadOutcome& outcome) {
  RequestTimes times;
  const auto& arrivals = outcome.arrivals;
  const int64_t first = arrivals.empty() ? outcome.end_ns : arrivals.front().at_ns;
  const int64_t last = arrivals.empty() ? outcome.end_ns : arrivals.back().at_ns;
  times.ttft = Seconds(outcome.start_ns, first);
  times.e2el = Seconds(outcome.start_ns, last);
  if (outcome.completion_tokens > 1) {
    times.tpot = Seconds(first, last) / static_cast<double>(outcome.completion_tokens - 1);
  }
  for (size_t i = 1; i < arrivals.size(); ++i) {
    times.itls.push_back(Seconds(arrivals[i - 1].at_ns, arrivals[i].at_ns));
  }
  return times;
}

LoadMetrics ComputeLoadMetrics(const LoadRun& run, const std::vector<double>& percents,
                               const std::optional<Goodput>& goodput) {
  LoadMetrics metrics;
  std::vector<double> ttfts, tpots, itls, e2els;
  int64_t good = 0;
  for (const LoadOutcome& outcome : run.outcomes) {
    if (!outcome.status.ok()) {
      ++metrics.failed;
      continue;
    }
    ++metrics.completed;
    metrics.total_input_tokens += outcome.prompt_tokens;
    metrics.total_output_tokens += outcome.completion_tokens;
    metrics.cached_prompt_tokens += outcome.cached_prompt_tokens;
    const RequestTimes times = TimesOf(outcome);
    ttfts.push_back(times.ttft * kMilli);
    e2els.push_back(times.e2el * kMilli);
    if (outcome.completion_tokens > 1) tpots.push_back(times.tpot * kMilli);
    for (const double itl : times.itls) itls.push_back(itl * kMilli);
    good += goodput.has_value() && IsGood(times, *goodput) ? 1 : 0;
  }
  if (metrics.completed > 0) FindPeaks(run, &metrics);
  metrics.duration = run.outcomes.empty() ? 0.0 : Seconds(run.begin_ns, run.end_ns);
  const auto per_second = [&metrics](int64_t count) {
    return metrics.duration > 0 ? static_cast<double>(count) / metrics.duration : 0.0;
  };
  metrics.request_throughput = per_second(metrics.completed);
  if (goodput.has_value()) metrics.request_goodput = per_second(good);
  metrics.output_throughput = per_second(metrics.total_output_tokens);
  metrics.total_token_throughput =
      per_second(metrics.total_input_tokens + metrics.total_output_tokens);
  metrics.ttft_ms = Distribute(std::move(ttfts), percents);
  metrics.tpot_ms = Distribute(std::move(tpots), percents);
  metrics.itl_ms = Distribute(std::move(itls), percents);
  metrics.e2el_ms = Distribute(std::move(e2els), percents);
  return metrics;
}

}  // namespace polystrate
