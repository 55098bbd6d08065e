// SIGTERM, SIGINT and SIGUSR1 (which mpirun forwards at once) ask an engine to drain. The handlers
// are installed first thing in main and only remember; SignalWatcher acts, from a thread of its
// own.
#pragma once

#include <functional>
#include <thread>

namespace polystrate {

void InstallDrainSignals();

// Blocked signals stay pending, over an exec too.
void BlockDrainSignals();
void UnblockDrainSignals();

struct DrainSignal {
  int number = 0;
  bool from_parent = false;  // sent by the process that started this one
};

// Calls on_signal on its own thread for each signal that has arrived since InstallDrainSignals().
class SignalWatcher {
 public:
  explicit SignalWatcher(std::function<void(DrainSignal)> on_signal);
  ~SignalWatcher();

 private:
  std::thread thread_;
};

}  // namespace polystrate
