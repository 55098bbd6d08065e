// YamlNode: a YAML file as a tree of plain values that know where they stand, so that whatever is
// wrong with one can be said with its line and column.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace polystrate {

struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  int line = 0;  // from 1, as column
  int column = 0;
  std::string scalar;           // as it is written, without quotes
  std::vector<YamlNode> items;  // of a list; of a map, its values
  std::vector<YamlNode> keys;   // of a map, scalars, each once, in the file's order

  // Of a map: the value of `key`, or null.
  const YamlNode* Find(const std::string& key) const;
};

// `file` is what errors call it. INVALID_ARGUMENT for what is no YAML, for a key that is no scalar
// or is there twice, and for a tree that is too deep or, its aliases written out, too large.
absl::StatusOr<YamlNode> ParseYaml(const std::string& file, const std::string& text);

// INVALID_ARGUMENT "file:line:column: message".
absl::Status YamlError(const std::string& file, const YamlNode& at, const std::string& message);

// INVALID_ARGUMENT for a key of `map` that is none of `known`, with the nearest of them. `what`
// says what the map is, as "an engine".
absl::Status CheckYamlKeys(const std::string& file, const YamlNode& map, const std::string& what,
                           const std::vector<std::string>& known);

}  // namespace polystrate
