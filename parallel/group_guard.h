// GroupGuard: notices that a group over GPUs has failed, which a main thread that waits for its
// stream, or for another rank, never learns.
#pragma once

#include <functional>
#include <thread>

#include "absl/status/status.h"
#include "parallel/process_group.h"
#include "parallel/socket.h"

namespace polystrate {

class GroupGuard {
 public:
  // On the guard's thread, when a group is not well any more: no call on any of the groups returns
  // from here on, so that nothing wrong leaves this rank; on_fault is told why; what GPUs do for
  // the groups is ended; on_end is called, which may end the process. `groups` must outlive the
  // guard.
  GroupGuard(ProcessGroups& groups, std::function<void(const absl::Status&)> on_fault,
             std::function<void()> on_end);
  // Before the groups go: peers that leave first look like a fault.
  ~GroupGuard();
  GroupGuard(const GroupGuard&) = delete;
  GroupGuard& operator=(const GroupGuard&) = delete;

 private:
  void Watch();

  ProcessGroups& groups_;
  const std::function<void(const absl::Status&)> on_fault_;
  const std::function<void()> on_end_;
  Wakeup stop_;
  std::thread thread_;
};

}  // namespace polystrate
