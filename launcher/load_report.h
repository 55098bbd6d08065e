// A load's report: the table that `vllm bench serve` prints and the JSON that it saves, label by
// label and key by key, with what only this engine tells behind.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launcher/load_metrics.h"
#include "launcher/load_run.h"

namespace polystrate {

// How the load was made, for the report alone.
struct LoadSetting {
  std::string target;
  std::string model_id;
  int64_t num_prompts = 0;
  double request_rate = 0;  // may be infinite
  double burstiness = 1;
  std::optional<int64_t> max_concurrency;
  std::vector<double> percents;
  std::vector<int64_t> input_lens;  // of each prompt as far as known before it is sent, else 0
};

struct LoadReport {
  LoadSetting setting;
  LoadRun run;
  LoadMetrics metrics;
  // By stage, the share of the time with steps under way in which it had nothing to do, [0, 1];
  // empty where the target does not tell.
  std::vector<double> bubbles;

  std::string Table() const;
  // One line. Times per request are in seconds: "ttfts", "itls" (a list for each request) and
  // "start_times", which count from the start of the run. A request that failed has its reason in
  // "errors", output length 0 and no times.
  std::string JsonText() const;
};

// "99" or "99.9": as labels and keys have a percentile, P99 and p99_ttft_ms.
std::string PercentName(double percent);

}  // namespace polystrate
