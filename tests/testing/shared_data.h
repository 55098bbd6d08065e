// The data beside the repository (../shared/data, or where POLYSTRATE_DATA says): tokenizers and
// corpora too large to keep. A test that needs one skips, by name, where it is absent.
#pragma once

#include <optional>
#include <string>

namespace polystrate {

// The path of a file there, or nothing when there is none.
std::optional<std::string> SharedData(const std::string& name);

}  // namespace polystrate
