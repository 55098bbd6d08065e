#include "launcher/bench_serve_flags.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "rpc/connector.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxPrompts = 10'000'000;

absl::StatusOr<std::vector<double>> ParsePercents(const std::string& text) {
  std::vector<double> percents;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    double percent = 0;
    if (!absl::SimpleAtod(part, &percent) || !(percent >= 0.0 && percent <= 100.0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metric_percentiles takes numbers in [0, 100] with commas between, as "
                       "50,90,99; \"",
                       part, "\" is none"));
    }
    percents.push_back(percent);
  }
  return percents;
}

}  // namespace

void ServeBenchFlags::AddTo(FlagSet* flags) {
  flags->Add("target", &target, "HOST:PORT of the engine");
  flags->Add("model", &model, "fails unless the engine serves this model");
  flags->Add("ready_timeout", &ready_timeout, "seconds to wait until the engine serves");
  connection.AddTo(flags);
  flags->Add("connections", &connections,
             "connections that the streams share; an engine takes 8,192 streams on each");
  flags->Add("num_prompts", &num_prompts, "requests");
  flags->Add("num_warmups", &num_warmups, "requests that are sent before and not measured");
  flags->Add("request_rate", &request_rate,
             "open loop: requests a second, whatever the answers do; inf sends all at once");
  flags->Add("burstiness", &burstiness,
             "gamma shape of the gaps between requests: 1 is Poisson, below comes in bursts");
  flags->Add("max_concurrency", &max_concurrency,
             "closed loop: requests in flight at most (default: no limit)");
  dataset.AddTo(flags);
  flags->Add("vocab_size", &vocab_size,
             "random token ids are below this (default: what the engine says)");
  flags->Add("seed", &seed, "of prompts, lengths, arrivals and sampling");
  flags->Add("temperature", &temperature, "0 is greedy");
  flags->Add("ignore_eos", &ignore_eos, "do not stop at the end-of-sequence token");
  flags->Add("goodput", &goodput,
             "limits in milliseconds that a request must meet to be good: ttft:500 tpot:50 "
             "e2el:9000");
  flags->Add("metric_percentiles", &metric_percentiles, "which to report, as 50,90,99");
  flags->Add("save_result", &save_result, "write the results to this file, one line of JSON");
}

absl::Status ServeBenchFlags::Check() {
  RETURN_IF_ERROR(CheckTarget(target));
  if (!(ready_timeout >= 0.0)) {
    return absl::InvalidArgumentError("--ready_timeout takes seconds, at least 0");
  }
  if (!(request_rate > 0.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--request_rate is ", request_rate, "; it must be above 0, or inf"));
  }
  if (!(burstiness > 0.0) || std::isinf(burstiness)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--burstiness is ", burstiness, "; it must be above 0 and finite"));
  }
  if (!(temperature >= 0.0 && temperature <= 2.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--temperature is ", temperature, "; it must be in [0, 2]"));
  }
  RETURN_IF_ERROR(CheckBenchRange("num_prompts", num_prompts, 1, kMaxPrompts));
  RETURN_IF_ERROR(CheckBenchRange("num_warmups", num_warmups, 0, kMaxPrompts));
  RETURN_IF_ERROR(CheckBenchRange("connections", connections, 1, 1024));
  RETURN_IF_ERROR(CheckBenchRange("max_concurrency", max_concurrency.value_or(1), 1, kMaxPrompts));
  RETURN_IF_ERROR(CheckBenchRange("vocab_size", vocab_size.value_or(1), 1, INT32_MAX));
  RETURN_IF_ERROR(
      CheckBenchRange("seed", seed, 0, std::numeric_limits<int64_t>::max() - kMaxPrompts));
  RETURN_IF_ERROR(CheckWritable("save_result", save_result));
  ASSIGN_OR_RETURN(percents, ParsePercents(metric_percentiles));
  if (!goodput.empty()) {
    ASSIGN_OR_RETURN(limits, ParseGoodput(goodput));
  }
  return dataset.Check();
}

}  // namespace polystrate
