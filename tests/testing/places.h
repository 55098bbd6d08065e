// Where tests find what they read and what they start. Known when they are compiled; a package that
// was carried to another machine says otherwise in the environment.
#pragma once

#include <string>

namespace polystrate {

// A file or folder of the repository, by its path in it. $POLYSTRATE_SOURCE_DIR goes before the
// folder that was compiled.
std::string SourceFile(const std::string& path);

// A program of this build: "polystrate", "mpi_ranks". $POLYSTRATE_PROGRAM_DIR goes before the
// folder that it was built in.
std::string BuiltProgram(const std::string& name);

}  // namespace polystrate
