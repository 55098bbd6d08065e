// config.json as text, for tests of those who read it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model_config.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {

// JSON text by key; an empty text drops the key.
using Keys = std::map<std::string, std::string>;

// An object of `keys` with `changes`.
inline std::string JsonOf(Keys keys, const Keys& changes) {
  for (const auto& [key, value] : changes) keys[key] = value;
  std::vector<std::string> members;
  for (const auto& [key, value] : keys)
    if (!value.empty()) members.push_back(absl::StrCat("\"", key, "\": ", value));
  return absl::StrCat("{", absl::StrJoin(members, ", "), "}");
}

inline absl::StatusOr<ModelConfig> ReadConfigText(const std::string& json,
                                                  const ModelOverrides& overrides = {}) {
  const TempDir dir;
  WriteFile(dir.File("config.json"), json);
  return ReadModelConfig(dir.path(), overrides);
}

}  // namespace polystrate
