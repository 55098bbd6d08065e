#include "tests/testing/shared_data.h"

#include <cstdlib>
#include <filesystem>

#include "tests/testing/places.h"

namespace polystrate {

std::optional<std::string> SharedData(const std::string& name) {
  const char* const folder = std::getenv("POLYSTRATE_DATA");
  const std::filesystem::path path =
      (folder != nullptr ? std::filesystem::path(folder)
                         : std::filesystem::path(SourceFile("..")) / "shared" / "data") /
      name;
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
  return path.string();
}

}  // namespace polystrate
