#include "parallel/group_guard.h"

#include <poll.h>

#include <utility>
#include <vector>

namespace polystrate {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(100);

}  // namespace

GroupGuard::GroupGuard(ProcessGroups& groups, std::function<void(const absl::Status&)> on_fault,
                       std::function<void()> on_end)
    : groups_(groups),
      on_fault_(std::move(on_fault)),
      on_end_(std::move(on_end)),
      thread_([this] { Watch(); }) {}

GroupGuard::~GroupGuard() {
  stop_.Set();
  thread_.join();
}

void GroupGuard::Watch() {
  absl::Status status = absl::OkStatus();
  while (status.ok()) {
    std::vector<pollfd> inputs = {{stop_.fd(), POLLIN, 0}};
    WaitForInput(&inputs, kLookEvery);
    if (stop_.is_set()) return;
    status.Update(groups_.tp->Health());
    status.Update(groups_.pp->Health());
  }
  groups_.activity->Freeze();
  on_fault_(status);
  groups_.tp->Abort();
  groups_.pp->Abort();
  on_end_();
}

}  // namespace polystrate
