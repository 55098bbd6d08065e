// The models whose memory and speed the papers compare, as shapes: what `polystrate bench` measures
// with random weights, because neither depends on the weights' values.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace polystrate {

struct PaperVariant {
  std::string name;  // the paper's, as "MLKV-12"
  ModelConfig config;
};

// Pythia-160M and its eight conversions (MLKV, arXiv:2406.09297), MHA-144 first, in the order of
// the paper's table. The number in a name is KV heads over the whole model, owners times heads. A
// conversion spends what it saves on its MLPs, so all have 162.3M parameters.
std::vector<PaperVariant> MlkvVariants();

// Those of MlkvVariants() that `names` lists, with commas between, in that order; all when it is
// empty. INVALID_ARGUMENT names an unknown or repeated one and lists those known.
absl::StatusOr<std::vector<PaperVariant>> SelectVariants(const std::string& names);

}  // namespace polystrate
