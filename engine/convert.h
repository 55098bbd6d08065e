// A model directory from another: fewer layers and heads with K and V of their own.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "engine/conversion_plan.h"
#include "engine/model_config.h"

namespace polystrate {

struct Conversion {
  std::string model_dir;
  std::string output_dir;  // must not exist; its parent must
  ConversionOptions options;
  ReuseKeys reuse_keys = ReuseKeys::kPostRope;  // for config.json, where layers share
};

// Writes `output_dir`: config.json with the new sizes and all else as it was, the tokenizer's
// files, generation_config.json and licences copied, and the weights: one model.safetensors, or,
// from shards, shards and an index; what comes of a tensor goes to the shard that stands for its
// own. Reads and writes piece by piece, in memory that does not depend on the model's size but for
// the headers.
//
// All is written beside output_dir under a name of its own, checked, and renamed in the end: a
// failure leaves nothing.
// ALREADY_EXISTS becomes INVALID_ARGUMENT: the output is there. Else what PlanConversion refuses,
// or the file system. `progress`, called after each tensor with the share done, (0, 1], may stop
// the work by an error, which is returned.
absl::Status Convert(const Conversion& conversion,
                     const std::function<absl::Status(double)>& progress);

}  // namespace polystrate
