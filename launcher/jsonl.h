// JSONL files from users: a JSON value a line, bounded in size, errors with the line's number.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "engine/json.h"

namespace polystrate {

// Calls `visit` with each line that is not blank and with where it stands, "FILE:NUMBER", until it
// fails. INVALID_ARGUMENT names file and line, also in front of a visitor's own words. At most 1
// GiB, and 16 MiB a line.
absl::Status ForEachJsonLine(
    const std::string& path,
    const std::function<absl::Status(const JsonView& line, const std::string& where)>& visit);

}  // namespace polystrate
