// Whole Hugging Face directories (config.json and safetensors, no tokenizer) for tests: small
// models of every family with any sharing map, stored in any of the ways that checkpoints in the
// wild are, and with the traps that a loader must not step into.
//
//   TempDir dir;
//   TinyModelSpec spec;
//   spec.num_kv_heads = 1;
//   spec.num_kv_layers = 2;
//   WriteTinyModel(dir.path(), spec);
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/architecture.h"
#include "parallel/kv_sharing.h"
#include "tests/testing/safetensors_writer.h"

namespace polystrate {

struct TinyModelSpec {
  // --- The model: what config.json says. ---
  std::string model_type = "gpt_neox";  // or one of the Llama family's
  int64_t vocab_size = 96;
  int64_t hidden_size = 48;
  int num_layers = 4;
  int num_heads = 6;
  int num_kv_heads = 0;        // 0: num_heads, and no such key in config.json
  int num_kv_layers = 0;       // 0: num_layers, and no such key
  std::vector<int> kv_source;  // not empty: written as `kv_source`, and overrides num_kv_layers
  int64_t intermediate_size = 100;
  int64_t max_position_embeddings = 256;
  double rotary_pct = 0.25;
  double rotary_emb_base = 10000.0;
  double layer_norm_eps = 1e-5;
  std::string hidden_act = "gelu";
  bool use_parallel_residual = true;
  bool use_key_value_mlp = false;
  int64_t kv_intermediate_size = 40;
  bool attention_bias = true;
  bool tie_word_embeddings = false;
  int eos_token_id = 0;
  std::string reuse_keys;  // "post_rope", "pre_rope"; empty: no such key
  // The Llama family alone, which in turn has no use for the settings of GPT-NeoX above.
  int64_t explicit_head_dim = 0;  // 0: hidden_size / num_heads
  bool mlp_bias = false;
  bool separate_kv_norm = false;
  std::string norm_type = "rms_norm";  // or "layer_norm"
  std::string rope_scaling;            // a JSON object; empty: no such key

  // --- Its values (tests/testing/counter_weights.h). ---
  uint64_t seed = 1;
  double gain = 1.0;

  // --- How they are stored. The values are the same whatever is chosen here, but for rounding. ---
  std::string dtype = "F32";
  bool mixed_dtypes = false;  // F32, F16, BF16 in turn instead
  // One query_key_value a layer, as stock checkpoints have; needs every layer to own all its heads.
  bool fused_qkv = false;
  int num_shards = 1;  // more: model-0000i-of-0000n.safetensors and an index

  // --- Traps. ---
  enum class DeadTensors { kNone, kNan, kWrongShape };
  DeadTensors dead_kv = DeadTensors::kNone;  // K and V tensors in layers that reuse
  bool buffers = false;                      // attention.bias, masked_bias, rotary_emb.inv_freq
  // Called with all tensors before they are written: drop, rename, reshape at will.
  std::function<void(std::vector<StoredTensor>*)> edit;

  int64_t head_dim() const {
    return explicit_head_dim != 0 ? explicit_head_dim : hidden_size / num_heads;
  }
  int kv_heads() const { return num_kv_heads == 0 ? num_heads : num_kv_heads; }
  KvSharing sharing() const;
  const TensorNames& names() const;
  // What follows from the family, as Hugging Face has it.
  bool neox() const { return model_type == "gpt_neox"; }
  bool qkv_has_bias() const;
  bool output_has_bias() const;
  bool mlp_has_bias() const;
  bool norms_have_bias() const { return neox() || norm_type == "layer_norm"; }
  bool qk_norm() const { return model_type == "qwen3"; }
};

std::string TinyModelConfigJson(const TinyModelSpec& spec);
// What WriteTinyModel stores, before `edit` and in one list.
std::vector<StoredTensor> TinyModelTensors(const TinyModelSpec& spec);
// Creates config.json and the safetensors in `dir`, which exists.
void WriteTinyModel(const std::string& dir, const TinyModelSpec& spec);
// Writes tensors in file order over `num_shards` files, with an index if there are several.
void WriteCheckpoint(const std::string& dir, const std::vector<StoredTensor>& tensors,
                     int num_shards);

// Every weight by name as it is stored, so rounded to its dtype, with query, key and value apart
// even where they are stored fused. The truth that loaders and reference models are held against.
std::map<std::string, std::vector<float>> TinyModelWeights(const TinyModelSpec& spec);

}  // namespace polystrate
