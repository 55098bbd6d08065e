#include "launcher/load_run.h"

#include <sys/prctl.h>

#include <algorithm>
#include <limits>

#include "absl/time/clock.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr int64_t kProgressNs = 500'000'000;

// Waits of this thread end when they should: the kernel may else add 50 us to each, to wake the
// processor less often.
class PreciseTimers {
 public:
  PreciseTimers() : slack_(prctl(PR_GET_TIMERSLACK)) { prctl(PR_SET_TIMERSLACK, 1); }
  ~PreciseTimers() { prctl(PR_SET_TIMERSLACK, slack_); }

 private:
  const int slack_;
};

class Runner {
 public:
  Runner(LoadClient& client, size_t num_requests, const std::function<void(double)>& progress)
      : client_(client), progress_(progress) {
    run_.outcomes.resize(num_requests);
    run_.begin_ns = SteadyNs();
  }

  // False: interrupted.
  bool WaitUntil(int64_t due_ns) {
    while (SteadyNs() < due_ns && !client_.interrupted()) Wait(due_ns, /*max_running=*/-1);
    return !client_.interrupted();
  }
  bool WaitForRoom(int64_t max_running) {
    constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
    while (client_.running() > max_running && !client_.interrupted()) Wait(kNever, max_running);
    return !client_.interrupted();
  }

  LoadRun Finish(int64_t num_sent) {
    if (!WaitForRoom(0)) {
      run_.interrupted = true;
      client_.CancelAll();
    }
    // Interrupted, waits return at once: poll until the last of the cancelled is back.
    for (; num_ended_ < num_sent; absl::SleepFor(absl::Milliseconds(1))) Collect();
    run_.outcomes.resize(static_cast<size_t>(num_sent));
    for (const LoadOutcome& outcome : run_.outcomes) {
      run_.end_ns = std::max(run_.end_ns, outcome.end_ns);
    }
    return std::move(run_);
  }

  LoadRun& run() { return run_; }

 private:
  void Wait(int64_t due_ns, int64_t max_running) {
    client_.Wait(std::min(due_ns, SteadyNs() + kProgressNs), max_running);
    Collect();
  }

  void Collect() {
    for (LoadOutcome& outcome : client_.TakeFinished()) {
      ++num_ended_;
      run_.outcomes[static_cast<size_t>(outcome.index)] = std::move(outcome);
    }
    progress_(static_cast<double>(num_ended_) / static_cast<double>(run_.outcomes.size()));
  }

  LoadClient& client_;
  const std::function<void(double)>& progress_;
  LoadRun run_;
  int64_t num_ended_ = 0;
};

}  // namespace

LoadRun RunLoad(LoadClient& client, const std::vector<openengine::v1::GenerateRequest>& requests,
                const LoadSchedule& schedule, const std::function<void(double)>& progress) {
  CHECK_EQ(requests.size(), schedule.arrivals.size());
  const PreciseTimers precise;
  Runner runner(client, requests.size(), progress);
  int64_t sent = 0;
  for (; sent < static_cast<int64_t>(requests.size()); ++sent) {
    const auto i = static_cast<size_t>(sent);
    int64_t due = runner.run().begin_ns + static_cast<int64_t>(schedule.arrivals[i] * 1e9);
    if (!runner.WaitUntil(due)) break;
    if (schedule.max_concurrency.has_value() && client.running() >= *schedule.max_concurrency) {
      if (!runner.WaitForRoom(*schedule.max_concurrency - 1)) break;
      due = SteadyNs();
    }
    client.Send(sent, requests[i]);
    LoadRun& run = runner.run();
    run.max_send_delay_ns = std::max(run.max_send_delay_ns, SteadyNs() - due);
  }
  return runner.Finish(sent);
}

}  // namespace polystrate
