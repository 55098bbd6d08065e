// A sharing map as a user writes it, on the command line or as a string in config.json.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// One of
//   0,0,2,2   the layer that each layer reads, one number for each of num_layers
//   0_0_2_2   the same as LCKV writes it (its layer_types)
//   claN      CLA, groups of N adjacent layers; cla1 shares nothing
//   mlkvM     MLKV, M owners
//   keep_ends, dense_front, dense_back   CLA's non-uniform maps
// INVALID_ARGUMENT says which rule of KvSharing is broken, or what a map may look like.
absl::StatusOr<KvSharing> ParseKvSource(absl::string_view text, int num_layers);

}  // namespace polystrate
