// The sharing map of a config.json.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// The first of these that is there; where none is, every layer owns.
//   `flag`                what --kv_source says (parallel/kv_source_text.h)
//   kv_source             a list with the source of each layer, or text as the flag takes it
//   layer_types           LCKV's string, as 0_0s_2_2s, whose 's' marks a sliding window and says
//                         nothing about sharing; transformers' own layer_types is a list
//   num_key_value_layers  the number of owners, placed by MLKV's rule
// INVALID_ARGUMENT names the key and the rule that was broken.
absl::StatusOr<KvSharing> ReadSharing(const JsonView& root, const std::optional<std::string>& flag,
                                      int num_layers);

}  // namespace polystrate
