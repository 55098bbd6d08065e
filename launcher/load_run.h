// RunLoad: sends requests at their times and waits for all of them.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "launcher/load_client.h"
#include "launcher/load_outcome.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

struct LoadSchedule {
  std::vector<double> arrivals;  // seconds after the start, one per request, ascending
  // Requests in flight at most: a request whose time has come waits until another has ended, and
  // its clock starts when it is sent. Nothing: none ever waits for another.
  std::optional<int64_t> max_concurrency;
};

struct LoadRun {
  std::vector<LoadOutcome> outcomes;  // in the order of the requests; fewer after an interrupt
  int64_t begin_ns = 0;
  int64_t end_ns = 0;  // when the last stream had ended
  // How long after its time a request was sent at worst, waiting for max_concurrency apart: what
  // the generator itself adds.
  int64_t max_send_delay_ns = 0;
  bool interrupted = false;
};

// `progress` gets the share of requests that have ended, now and then. On LoadClient::Interrupt it
// sends no more, cancels what runs and returns what there is.
LoadRun RunLoad(LoadClient& client, const std::vector<openengine::v1::GenerateRequest>& requests,
                const LoadSchedule& schedule, const std::function<void(double)>& progress);

}  // namespace polystrate
