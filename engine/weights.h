// StageWeights: the weights of one rank: its stage's layers, its tensor-parallel share of each.
//
// Matrices are [out, in] in the engine's dtype; norm weights and biases are float32.
// Column-parallel: qkv_proj, gate_up_proj (and the K/V MLPs' second matrix); row-parallel: o_proj,
// down_proj, whose biases only tp_rank 0 keeps so that the all-reduce adds them once: on the others
// they are empty. Intermediate sizes are padded with zero rows and columns to a multiple of 32 per
// rank, vocabulary rows to equal shares.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"
#include "parallel/shard.h"
#include "parallel/stage_plan.h"
#include "parallel/topology.h"

namespace polystrate {

struct LinearWeights {
  Tensor weight;  // [out, in] T
  Tensor bias;    // [out] float32; empty when there is none
};
struct NormWeights {
  Tensor weight;  // [hidden_size] float32
  Tensor bias;    // a layer norm's; zeros where the model has none
};
// An owner whose K (or V) projection is dense_out(activation(dense_in(x))) (use_key_value_mlp).
struct KeyValueMlpWeights {
  LinearWeights dense_in;   // [kv_intermediate_size padded, hidden_size], whole on every rank
  LinearWeights dense_out;  // [kv_count * head_dim, kv_intermediate_size padded]
};

struct LayerWeights {
  int layer = 0;      // index in the model
  bool owner = true;  // a reuser's qkv_proj has the query rows alone
  NormWeights input_layernorm;
  NormWeights post_attention_layernorm;
  NormWeights kv_layernorm;  // an owner's, where the model has separate_kv_norm
  Tensor q_norm, k_norm;     // [head_dim] float32, where the model has qk_norm; k_norm an owner's
  // Rows: query_count * head_dim, then for an owner with plain projections kv_count * head_dim of K
  // and as many of V.
  LinearWeights qkv_proj;
  KeyValueMlpWeights key_mlp, value_mlp;  // owners of use_key_value_mlp models; empty otherwise
  LinearWeights o_proj;                   // [hidden_size, query_count * head_dim]
  // [intermediate share, hidden_size]; in a gated MLP the gate's rows, then as many of up.
  LinearWeights gate_up_proj;
  LinearWeights down_proj;  // [hidden_size, intermediate share]
};

struct StageWeights {
  HeadShard heads;
  ShardRange vocab;         // this rank's rows of embedding and lm_head
  ShardRange intermediate;  // this rank's MLP rows
  Tensor embedding;         // [vocab.padded, hidden_size] T; first stage only
  std::vector<LayerWeights> layers;
  NormWeights final_norm;       // last stage only, as lm_head
  Tensor lm_head;               // [vocab.padded, hidden_size] T; may be embedding itself (tied)
  std::vector<Buffer> buffers;  // owns all of the above; one, as LoadStageWeights makes it

  int64_t num_bytes() const;
};

// Reads the share of (topology, stage) from a Hugging Face directory, by the tensor names of
// config.architecture: F32, F16 or BF16 by tensor, converted to `dtype`, float32 or bfloat16;
// query, key and value apart or, where the family has such checkpoints, fused. Every tensor is
// checked before memory is taken; then exactly the bytes of the share are read, through a staging
// buffer of 1 MiB, so that is all the memory besides the share. What the model has no use for
// (buffers, K and V of reusers) is not looked at. NOT_FOUND names the file or the missing tensor;
// INVALID_ARGUMENT the tensor, its shape or dtype and what was expected, or a tp_size that does not
// divide the heads; RESOURCE_EXHAUSTED, the size. `progress`, if given, is called after each tensor
// with the share of tensors read, (0, 1].
absl::StatusOr<StageWeights> LoadStageWeights(const std::string& model_dir,
                                              const ModelConfig& config, const Topology& topology,
                                              const Stage& stage, DType dtype, Device device,
                                              const std::function<void(double)>& progress = {});

// The same share of a model that has a config.json and no checkpoint: reproducible values of no
// meaning (engine/dummy_weights.h), the same whatever the cut.
absl::StatusOr<StageWeights> DummyStageWeights(const ModelConfig& config, const Topology& topology,
                                               const Stage& stage, DType dtype, Device device,
                                               const std::function<void(double)>& progress = {});

// What the share takes on a rank's device, without loading anything.
absl::StatusOr<int64_t> StageWeightBytes(const ModelConfig& config, const Topology& topology,
                                         const Stage& stage, DType dtype);

// What LoadStageWeights would find wrong with the weights of the whole model, from the files'
// headers alone.
absl::Status CheckWeights(const std::string& model_dir, const ModelConfig& config);

}  // namespace polystrate
