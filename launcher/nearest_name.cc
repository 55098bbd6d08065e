#include "launcher/nearest_name.h"

#include <algorithm>

namespace polystrate {
namespace {

constexpr size_t kFarthest = 3;

// Levenshtein's distance.
size_t Distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string NearestName(const std::string& name, const std::vector<std::string>& names) {
  const auto nearest = std::min_element(names.begin(), names.end(),
                                        [&name](const std::string& a, const std::string& b) {
                                          return Distance(name, a) < Distance(name, b);
                                        });
  if (nearest == names.end() || Distance(name, *nearest) > kFarthest) return "";
  return *nearest;
}

}  // namespace polystrate
