// Changes to a JSON text that leave all the rest of it as it was written: order, spaces, spelling
// of numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace polystrate {

struct JsonMember {
  std::string key;
  std::string value;  // JSON text
  bool add = true;    // false: set it only where the key is there
};

// `text`, an object with at least one member, with `members` set: a key that is there gets the new
// value where it stands, others come at the end, indented as the first one is. `document` names the
// text in messages. INVALID_ARGUMENT when the text is not an object as JSON has it (engine/json.h
// lets a little more pass).
absl::StatusOr<std::string> SetJsonMembers(std::string_view text, std::string_view document,
                                           const std::vector<JsonMember>& members);

}  // namespace polystrate
