// Activations: every scratch tensor of a stage, taken once for the largest step. A step uses the
// first rows.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "engine/weights.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor.h"

namespace polystrate {

struct Activations {
  // Rows of logits that a stage on the CPU computes at a time; more are done in turns. GPUs take
  // more, so that the LM head is read less often.
  static constexpr int64_t kMaxLogitRows = 64;

  Tensor hidden;         // [max_tokens, hidden_size] float32: the residual stream
  Tensor normed;         // [max_tokens, hidden_size] T
  Tensor qkv;            // [max_tokens, (query_count + 2 kv_count) * head_dim] T
  Tensor key_value_mlp;  // [max_tokens, kv_intermediate] T; empty without use_key_value_mlp
  Tensor attention;      // [max_tokens, query_count * head_dim] T
  Tensor gate_up;        // [max_tokens, 2 * intermediate share] T; empty without gated_mlp
  Tensor intermediate;   // [max_tokens, intermediate share] T
  Tensor block_out;  // [max_tokens, hidden_size] float32: what a block adds, before the all-reduce
  Tensor logit_hidden;  // [logit rows, hidden_size] float32: the rows whose logits are wanted
  Tensor logit_normed;  // the same, normed, T
  Tensor logit_shard;   // [logit rows, vocab share] float32
  Tensor logit_parts;   // [tp_size, logit rows, vocab share] float32; tp_rank 0 of several alone
  // [logit rows, tp_size * vocab share] float32; tp_rank 0 alone, where it is alone the shard
  // itself
  Tensor logits;

  int64_t max_logit_rows() const { return logit_hidden.dim(0); }

  // The first num_tokens rows of the tensors that have a row for each token.
  Activations ForStep(int64_t num_tokens) const;
  // The same for rows that are gathered in the middle of a step: hidden and block_out change
  // places, so that rows of the one's memory can be gathered into the other's.
  Activations ForGatheredRows(int64_t num_rows) const;
};

struct ActivationPool {
  Activations all;
  std::vector<Buffer> buffers;

  static absl::StatusOr<ActivationPool> Create(const ModelConfig& config,
                                               const StageWeights& weights,
                                               const Topology& topology, int64_t max_tokens,
                                               DType dtype, Device device);
};

}  // namespace polystrate
