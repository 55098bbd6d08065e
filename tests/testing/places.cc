#include "tests/testing/places.h"

#include <cstdlib>

namespace polystrate {
namespace {

// The one file that is compiled with paths of this machine: all others are the same in every
// checkout and for every preset, so ccache knows them.
std::string In(const char* variable, const char* compiled, const std::string& path) {
  const char* const folder = std::getenv(variable);
  return std::string(folder != nullptr ? folder : compiled) + "/" + path;
}

}  // namespace

std::string SourceFile(const std::string& path) {
  return In("POLYSTRATE_SOURCE_DIR", POLYSTRATE_SOURCE_DIR, path);
}

std::string BuiltProgram(const std::string& name) {
  return In("POLYSTRATE_PROGRAM_DIR", POLYSTRATE_PROGRAM_DIR, name);
}

}  // namespace polystrate
