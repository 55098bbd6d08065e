// What Prometheus is told: an engine's figures as metric families. The names are those that
// dashboards and gateways know from vLLM, with the same meaning; what only this engine has is
// polystrate:. docs/serving.md explains each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_stats.h"
#include "parallel/rank_table.h"
#include "prometheus/metric_family.h"
#include "rpc/request_log.h"

namespace polystrate {

// All of one moment, or nearly: the parts are read one after the other.
struct MetricsSnapshot {
  std::string model_name;
  EngineState state = EngineState::kStarting;
  int64_t max_queued_requests = 0;
  int64_t max_queued_tokens = 0;
  EngineLoad load;
  EngineStats stats;
  std::vector<RankStatus> ranks;     // by rank
  RequestLog::CodeCounts refused{};  // requests refused before acceptance
  int64_t log_lines_written = 0;
  int64_t log_lines_dropped = 0;
};

// Of a running engine.
MetricsSnapshot TakeMetrics(Engine& engine, const RequestLog& log);

// Every family has at least one sample, zero if nothing has happened yet, so that rates and alerts
// work from the first scrape on. All samples carry model_name.
std::vector<prometheus::MetricFamily> MetricFamilies(const MetricsSnapshot& snapshot);

}  // namespace polystrate
