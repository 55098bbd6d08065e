// ./test.sh --full runs random tests for longer.
#pragma once

#include <cstdlib>

namespace polystrate {

// `fast` by default, `full` under ./test.sh --full (POLYSTRATE_FULL_TESTS).
inline int Length(int fast, int full) {
  return std::getenv("POLYSTRATE_FULL_TESTS") == nullptr ? fast : full;
}

}  // namespace polystrate
