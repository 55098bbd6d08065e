// The flags of `polystrate bench serve`.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/connection_flags.h"
#include "launcher/flags.h"
#include "launcher/load_dataset.h"
#include "launcher/load_metrics.h"

namespace polystrate {

// Names and defaults are those of `vllm bench serve` where it has the same.
struct ServeBenchFlags {
  std::string target = "127.0.0.1:50051";
  std::string model;
  double ready_timeout = 600.0;
  ConnectionFlags connection;
  int64_t connections = 1;
  DatasetFlags dataset;
  std::optional<int64_t> vocab_size;
  int64_t num_prompts = 1000;
  int64_t num_warmups = 1;
  double request_rate = std::numeric_limits<double>::infinity();
  double burstiness = 1.0;
  std::optional<int64_t> max_concurrency;
  int64_t seed = 0;
  double temperature = 0.0;
  bool ignore_eos = false;
  std::vector<std::string> goodput;
  std::string metric_percentiles = "99";
  std::optional<std::string> save_result;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT names the flag and its range; fills what follows.
  absl::Status Check();

  std::vector<double> percents;   // of --metric_percentiles
  std::optional<Goodput> limits;  // of --goodput
};

}  // namespace polystrate
