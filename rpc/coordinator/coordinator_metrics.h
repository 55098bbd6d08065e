// What Prometheus is told of a coordinator: its own counters, and of each engine what routing goes
// by. The three gauges that gateways route by stand under vLLM's names, summed over the engines
// that serve. docs/cluster.md explains each.
#pragma once

#include <string>
#include <vector>

#include "rpc/coordinator/call_registry.h"
#include "rpc/coordinator/engine_pool.h"

namespace polystrate {

// In Prometheus' text format.
std::string CoordinatorMetrics(CallRegistry& registry);

}  // namespace polystrate
