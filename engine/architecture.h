// Architecture: what tells one family of models from another: the keys of its config.json and the
// names of its tensors. How a layer computes follows from ModelConfig's facts, never from the
// family. docs/adding_an_architecture.md shows how to add one.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace polystrate {

class JsonView;
struct ModelConfig;

// How a family's checkpoints name their tensors. A stem is a name without the ".weight" or ".bias"
// that ends it; empty where the family has no such tensor.
struct TensorNames {
  absl::string_view embedding;   // whole name, [vocab_size, hidden_size]
  absl::string_view lm_head;     // whole name, the same shape; not read where embeddings are tied
  absl::string_view final_norm;  // stem
  absl::string_view layers;      // a layer's stems follow `layers`, its number and a dot

  // Stems within a layer.
  absl::string_view input_norm;
  absl::string_view post_attention_norm;
  absl::string_view kv_norm;                      // ModelConfig::separate_kv_norm
  absl::string_view query, key, value;            // [heads * head_dim, hidden_size]
  absl::string_view fused_qkv;                    // instead: by head, query, key, value
  absl::string_view key_value_in, key_value_out;  // below key and value: use_key_value_mlp
  absl::string_view query_norm, key_norm;         // ModelConfig::qk_norm, [head_dim]
  absl::string_view output;                       // [hidden_size, heads * head_dim]
  absl::string_view gate;                         // ModelConfig::gated_mlp; as `up`
  absl::string_view up;                           // [intermediate_size, hidden_size]
  absl::string_view down;                         // [hidden_size, intermediate_size]

  // The stem as it stands in the file, "gpt_neox.layers.3.attention.dense".
  std::string InLayer(int layer, absl::string_view stem) const;
};

struct Architecture {
  absl::string_view title;                          // "GPT-NeoX (Pythia, MLKV)", for messages
  absl::Span<const absl::string_view> model_types;  // of config.json
  TensorNames tensors;
  // Reads what only this family has, or names in its own way, into `config`, whose sizes have been
  // read. INVALID_ARGUMENT names the key, its value and what was expected.
  absl::Status (*read_config)(const JsonView& root, ModelConfig* config);
  // There are checkpoints that share KV by either key rule and do not say which.
  bool key_rule_unknown = false;
};

// One file each; they live as long as the program.
const Architecture& GptNeoxArchitecture();
const Architecture& LlamaArchitecture();

// The family of a config.json by its `model_type`. INVALID_ARGUMENT lists those that are known.
absl::StatusOr<const Architecture*> FindArchitecture(const JsonView& root);
// By a model type alone; nullptr when it is unknown.
const Architecture* ArchitectureOf(absl::string_view model_type);

}  // namespace polystrate
