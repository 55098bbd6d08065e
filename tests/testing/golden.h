// Golden: logits that tools/make_golden.py computed with another implementation, and the checkpoint
// they belong to, whose weights both sides make with counter_weights.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace polystrate {

struct Golden {
  std::string name;
  std::string source;       // who computed the logits
  std::string config_json;  // config.json of the model, with `reuse_keys` where it matters
  std::map<std::string, std::vector<int64_t>> tensors;  // shapes by name
  uint64_t model_seed = 0;
  double gain = 1.0;
  std::vector<int32_t> token_ids;  // the prompt
  // logits[i][j]: after the token at positions[i], of token vocab_ids[j].
  std::vector<int64_t> positions;
  std::vector<int32_t> vocab_ids;
  std::vector<std::vector<double>> logits;
  std::vector<int32_t> argmax;  // of the whole row of logits, per position
  double logit_scale = 0;       // the largest absolute logit of all rows
};

// Files of tests/golden, ascending; the folder is in the source tree.
std::vector<std::string> GoldenFiles();
// Those of tests/golden/reference_decode: logits that are wrong, as the published MLKV code decodes
// (tools/reference_decode.py), of the checkpoints of golden files of the same names.
std::vector<std::string> ReferenceDecodeFiles();
// CHECK-fails when the file is not one that make_golden.py writes.
Golden ReadGolden(const std::string& path);
// Writes the golden's config.json and float32 safetensors into `dir`, which exists.
void WriteGoldenModel(const std::string& dir, const Golden& golden);

}  // namespace polystrate
