// The shapes of models that are published and well known, to measure speed with random weights.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace polystrate {

struct PublicShape {
  std::string name;  // as its publisher has it: "pythia-6.9b"
  ModelConfig config;
};

// pythia-160m, pythia-6.9b, tinyllama-1.1b and llama-3.1-8b, in this order.
std::vector<PublicShape> PublicShapes();

// Those that `names` lists, with commas between, in that order; all for the empty list.
// INVALID_ARGUMENT names one that is not known, and those that are.
absl::StatusOr<std::vector<PublicShape>> SelectShapes(const std::string& names);

}  // namespace polystrate
