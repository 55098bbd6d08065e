// What GET /status answers and the status page shows: a coordinator and its engines, as JSON.
//
//   {"coordinator": {"version", "time": 1763742000.1, "uptime_seconds", "streams", "waiting",
//                    "requests", "failed", "carried", "quarantined", "tokens"},
//    "engines": [{"target", "model", "version", "instance", "serving", "problem", "times_lost",
//                 "streams", "outstanding_tokens", "running", "queued",
//                 "used_blocks", "total_blocks", "block_size", "max_context", "tp", "pp",
//                 "time", "tokens": {"prompt", "cached_prompt", "generation"},
//                 "stages": [{"stage": 0, "first_layer": 0, "end_layer": 6, "kv_bytes_per_token",
//                             "kv_groups": [{"owner": 0, "readers": [1, 2]}, ...],
//                             "ranks": [{"rank", "tp_rank", "host", "pid", "busy_seconds",
//                                        "waiting_seconds", "bubble_share", "steps", "doing"}]}]}]}
//
// A time is in seconds since 1970, an engine's that of its last GetLoad, on its own clock. Counts
// only grow while the process lives; rates are for the reader to form. What an engine has not told
// is null, 0, "" or missing, and what one that is lost last told still stands.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "rpc/coordinator/engine_pool.h"

namespace polystrate {

// What a coordinator knows beside its engines. Counts are since `started`.
struct CoordinatorStatus {
  std::string version;
  absl::Time started;
  int64_t streams = 0;      // open just now
  int64_t waiting = 0;      // of these, those for which no engine serves
  int64_t requests = 0;     // streams that were opened
  int64_t failed = 0;       // that ended with an error
  int64_t carried = 0;      // times that one went on at another engine
  int64_t quarantined = 0;  // requests given up because engines died of them
  int64_t tokens = 0;       // delivered
};

// One line, valid whatever engines say of themselves.
std::string StatusJson(const CoordinatorStatus& coordinator,
                       const std::vector<EnginePool::View>& engines, absl::Time now);

}  // namespace polystrate
