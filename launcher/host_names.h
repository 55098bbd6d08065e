// What a host's name stands for, as seen from here.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace polystrate {

// NOT_FOUND when it resolves to no address.
absl::Status CheckHostName(const std::string& host);

// Whether it is this machine: its name, or one that resolves to an address of its interfaces.
bool IsLocalHost(const std::string& host);

}  // namespace polystrate
