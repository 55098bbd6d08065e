// The sharing map of a config.json.
#pragma once

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// From `kv_source`, a list with the source of each layer, or else from `num_key_value_layers` by
// MLKV's rule; where a config has neither, every layer owns. INVALID_ARGUMENT names the key and the
// rule that was broken.
absl::StatusOr<KvSharing> ReadSharing(const JsonView& root, int num_layers);

}  // namespace polystrate
