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

// The CLA paper's models of one KV head (arXiv:2405.12981, tables 1, 5 and 7), by size, head
// dimension and sharing factor: 1B-H128-MQA first. Llama-like; what the paper leaves open (norms'
// epsilon, rotary base, vocabulary) is as usual and changes nothing here.
std::vector<PaperVariant> ClaVariants();

// The variants that `names` lists, with commas between, in that order; "mlkv" and "cla" stand for
// all of a paper, and so does the empty list for MLKV's. INVALID_ARGUMENT names an unknown or
// repeated one and lists those known.
absl::StatusOr<std::vector<PaperVariant>> SelectVariants(const std::string& names);

}  // namespace polystrate
