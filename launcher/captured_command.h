// CapturedCommand: what a short command prints, within bounds.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "launcher/commands.h"

namespace polystrate {

struct CapturedCommand {
  int exit_code = -1;  // -1: it took too long and was killed; 127: it cannot be run
  std::string output;  // both, 64 KiB at most
};

CapturedCommand RunCaptured(const Arguments& command, absl::Duration timeout);

}  // namespace polystrate
