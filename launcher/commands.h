// The subcommands. Each takes the arguments after its name, prints results to standard output and
// everything else to standard error, and returns a status that main turns into the exit code.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace polystrate {

using Arguments = std::vector<std::string>;

absl::Status GenerateCommand(const Arguments& arguments);
absl::Status ScoreCommand(const Arguments& arguments);
absl::Status EvalCommand(const Arguments& arguments);
absl::Status ServeCommand(const Arguments& arguments);
absl::Status CoordinatorCommand(const Arguments& arguments);
absl::Status ClientCommand(const Arguments& arguments);
absl::Status PlanCommand(const Arguments& arguments);
absl::Status BenchCommand(const Arguments& arguments);
absl::Status ConvertCommand(const Arguments& arguments);
// cluster.yaml, then flags: the one command with an argument that is no flag.
absl::Status LaunchCommand(const Arguments& arguments);

}  // namespace polystrate
