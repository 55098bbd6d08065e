// The processes below one, as /proc has them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace polystrate {

struct Descendant {
  pid_t pid = -1;
  pid_t parent = -1;
};

// All that live, children of children too; none that only waits to be reaped. None at all where
// /proc is not this PID namespace's.
std::vector<Descendant> DescendantsOf(pid_t ancestor);

// The value of `name` in the environment that the process was started with; nothing when it has
// none, is gone or is somebody else's.
std::optional<std::string> StartedWith(pid_t pid, const std::string& name);

}  // namespace polystrate
