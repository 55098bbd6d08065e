// ModelConfig: the facts a checkpoint states about itself, in Hugging Face's words. Read once from
// config.json, validated, const afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/rope_scaling.h"
#include "kernels/core/dtype.h"
#include "kernels/ops.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// Which keys a reuser reads (docs/architecture.md, "Key rules").
enum class ReuseKeys : uint8_t {
  kPostRope,  // the owner's rotated keys: CLA and every published engine
  kPreRope,   // the owner's keys before rotation; only the reuser's query is rotated (pythia-mlkv)
};

enum class NormKind : uint8_t { kLayerNorm, kRmsNorm };

struct Architecture;

struct ModelConfig {
  const Architecture* architecture = nullptr;  // names the tensors; set by ReadModelConfig
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;  // absent in config.json: num_heads
  int head_dim = 0;      // num_heads * head_dim may be other than hidden_size
  int64_t intermediate_size = 0;
  int64_t max_position_embeddings = 0;
  NormKind norm = NormKind::kLayerNorm;
  bool norm_bias = true;
  float norm_epsilon = 1e-5f;
  int rotary_dim = 0;  // int(head_dim * rotary_pct), as transformers truncates; even, may be 0
  double rope_base = 10000.0;
  RopeScaling rope_scaling;
  // Not 0: some layers see only so many tokens up to their own. The engine gives every layer all of
  // them, which is the same within the window (CheckSlidingWindow).
  int64_t sliding_window = 0;
  Activation activation = Activation::kGelu;
  bool gated_mlp = false;  // down(activation(gate(x)) * up(x)), else down(activation(up(x)))
  bool use_parallel_residual = true;
  bool qk_norm = false;                // RMS norm of every query and key head, before rotation
  bool separate_kv_norm = false;       // K and V come from another norm of the layer's input than Q
  bool use_key_value_mlp = false;      // K and V projections are two-layer MLPs
  int64_t kv_intermediate_size = 0;    // of those; 0 without them
  bool qkv_bias = true;                // of query, key and value, their MLPs too
  bool output_bias = true;             // of the attention's output projection
  bool mlp_bias = true;                // of the MLP's matrices
  bool tie_word_embeddings = false;    // the LM head is the embedding, and is not read
  std::vector<int32_t> eos_token_ids;  // any of them ends a sequence; often one, may be none
  KvSharing sharing;                   // as ReadSharing finds it (engine/sharing_keys.h)
  ReuseKeys reuse_keys = ReuseKeys::kPostRope;
  // Not empty when the caller should tell the user something (the model shares KV and names no key
  // rule).
  std::string warning;
  std::optional<DType> torch_dtype;  // the dtype the checkpoint says it is in

  // KV cache bytes of one token over the whole model: 2 * owners * kv_heads * head_dim *
  // bytes(dtype).
  int64_t KvBytesPerToken(DType dtype) const;
  // Parameters of the checkpoint, counted from the shapes (buffers and dead tensors left out).
  int64_t NumParameters() const;
};

// What the user may say about a model on the command line; it overrides config.json.
struct ModelOverrides {
  std::optional<ReuseKeys> reuse_keys;
  std::optional<std::string> kv_source;  // as ParseKvSource takes it (parallel/kv_source_text.h)
};

// Reads DIR/config.json of any architecture that FindArchitecture knows (engine/architecture.h), in
// the spellings of transformers 4 and 5. Our own keys, both optional: `kv_source`, the sharing map
// (engine/sharing_keys.h); `reuse_keys`, "post_rope" or "pre_rope".
// NOT_FOUND when there is no such file; INVALID_ARGUMENT names the key, its value and what was
// expected: other architectures, ranges, divisibility, maps that read upward. Every size is
// bounded, so that no product of sizes that the engine forms can overflow 63 bits.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir,
                                            const ModelOverrides& overrides = {});

// INVALID_ARGUMENT when sequences of max_model_len tokens would outgrow the model's sliding window.
absl::Status CheckSlidingWindow(const ModelConfig& config, int64_t max_model_len);

}  // namespace polystrate
