// The program under test on emulated GPUs.
#pragma once

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"

namespace polystrate {

// False where emulated programs are not built (under the thread sanitizer).
inline bool EmulatorIsBuilt() {
  return std::filesystem::exists(BuiltProgram("polystrate_emulated"));
}

// A program with its arguments on a host of `num_gpus` GPUs, each a rank's own over NCCL.
inline CommandLine OnEmulatedGpus(int num_gpus, const std::string& program,
                                  const CommandLine& arguments) {
  CommandLine command = {"env", absl::StrCat("POLYSTRATE_EMULATED_GPUS=", num_gpus),
                         "POLYSTRATE_EMULATED_STREAMS=threads", BuiltProgram(program)};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

}  // namespace polystrate
