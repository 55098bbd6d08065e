// ConversionPlan: a checkpoint whose layers and heads each have K and V of their own, as one with
// fewer: which tensors the new one has, and of which stored values each is made. Pure, but that it
// reads the checkpoint's headers; engine/convert.h carries it out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/checkpoint.h"
#include "engine/model_config.h"
#include "engine/tensor_reader.h"
#include "parallel/kv_sharing.h"

namespace polystrate {

// How several K (or V) projections, weights and biases, become one. Both work in float32.
enum class Pooling : uint8_t {
  // pythia-mlkv's converter (arXiv:2406.09297, its published code). Heads: their sum in ascending
  // order divided by their number, rounded to the stored dtype. Layers: pair by pair, K_owner <-
  // (K_layer + K_owner) / 2 for the group's layers in ascending order, so that the last weighs 1/2,
  // the one before 1/4 and so on. Where heads are pooled too the pairs stay in float32, where they
  // are not each is rounded to the stored dtype: there the original works on.
  kSequential,
  // What the paper says: the mean of all heads of all layers, added in ascending order, rounded
  // once.
  kMean,
};

struct ConversionOptions {
  KvSharing sharing;     // of the new model; as many layers as the old one has
  int num_kv_heads = 0;  // of the new model
  Pooling pooling = Pooling::kSequential;
  bool grow_mlp = false;  // give the parameters that K and V lose to the MLPs
};

// Where a block of a stored tensor begins.
struct StoredOrigin {
  std::string tensor;
  int64_t row = 0;
  int64_t column = 0;
};

struct OutputBlock {
  Block block;  // of the output tensor
  // One list for each layer of the KV group, ascending, of the heads that become one: blocks of the
  // same size, to be pooled. One list of one is a copy, bit by bit.
  std::vector<std::vector<StoredOrigin>> sources;
};

struct OutputTensor {
  std::string name;
  std::string dtype;  // that of the stored tensor it takes the place of
  std::vector<int64_t> shape;
  // Its file in the new checkpoint is that of this stored tensor in the old one.
  Checkpoint::Entry stored;
  std::vector<OutputBlock> blocks;  // tile the tensor; none: it is `stored`, bit by bit

  int64_t num_bytes() const;
};

struct ConversionPlan {
  Pooling pooling = Pooling::kSequential;
  int64_t intermediate_size = 0;      // of the new model
  std::vector<OutputTensor> tensors;  // in the order of the old files
};

// Neurons that growing adds to each layer's MLP, as the converter of arXiv:2406.09297 counts them:
// the parameters lost, over the layers and over hidden_size, each rounded (down, to nearest even),
// then over the MLP's matrices, rounded down.
int64_t MlpGrowth(const ModelConfig& config, const KvSharing& sharing, int num_kv_heads);

// INVALID_ARGUMENT names the rule that is broken: a model that shares already or whose K and V are
// MLPs, a map of another depth, num_kv_heads that does not divide the model's, an MLP with fewer
// neurons than it should gain; or the tensor that is not as config.json has it. NOT_FOUND: the
// tensor that is missing. Buffers that old versions of transformers saved are left out; all else
// that the conversion does not touch is kept. Growing repeats the first neurons, as the original
// does, which changes what the MLP computes.
absl::StatusOr<ConversionPlan> PlanConversion(const ModelConfig& config,
                                              const Checkpoint& checkpoint,
                                              const ConversionOptions& options);

}  // namespace polystrate
