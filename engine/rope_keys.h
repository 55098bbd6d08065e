// The rotary settings of a config.json.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "engine/json.h"
#include "engine/model_config.h"

namespace polystrate {

// What a family calls its rotary settings where config.json has them at the top level.
struct RopeKeys {
  std::string_view base;   // beside the common rope_theta
  std::string_view share;  // beside the common partial_rotary_factor
  double default_share;
};

// Sets rope_base, rotary_dim and rope_scaling from `rope_scaling` (transformers 4) or
// `rope_parameters` (5) and the keys beside it; config's sizes have been read.
// "dynamic" scaling leaves contexts up to max_position_embeddings, which are all the engine takes,
// as they are. Beyond, transformers changes every frequency as a sequence grows: keys in the cache
// would have been rotated by others than a full forward pass rotates them by.
// INVALID_ARGUMENT names the setting, its value and what was expected.
absl::Status ReadRope(const JsonView& root, const RopeKeys& keys, ModelConfig* config);

}  // namespace polystrate
