// "Did you mean": the known name next to a misspelt one.
#pragma once

#include <string>
#include <vector>

namespace polystrate {

// Of `names` the one that is nearest to `name`, by letters that are wrong, missing or too many;
// empty when all differ by more than three.
std::string NearestName(const std::string& name, const std::vector<std::string>& names);

}  // namespace polystrate
