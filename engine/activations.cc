#include "engine/activations.h"

#include <algorithm>
#include <utility>

#include "kernels/core/status.h"

namespace polystrate {

namespace {

// Of logits that a GPU holds at a time, within reason; the rows of a large batch.
constexpr int64_t kLogitBytes = int64_t{256} << 20;
constexpr int64_t kMostLogitRows = 4096;

int64_t LogitRows(Device device, int64_t vocab_size) {
  if (device.type == DeviceType::kCpu) return Activations::kMaxLogitRows;
  const int64_t rows = kLogitBytes / (vocab_size * SizeOf(DType::kFloat32));
  return std::clamp(rows, Activations::kMaxLogitRows, kMostLogitRows);
}

}  // namespace

Activations Activations::ForStep(int64_t num_tokens) const {
  Activations step = *this;
  for (Tensor* tensor : {&step.hidden, &step.normed, &step.qkv, &step.key_value_mlp,
                         &step.attention, &step.gate_up, &step.intermediate, &step.block_out}) {
    if (!tensor->empty()) *tensor = tensor->Rows(0, num_tokens);
  }
  return step;
}

Activations Activations::ForGatheredRows(int64_t num_rows) const {
  Activations step = ForStep(num_rows);
  std::swap(step.hidden, step.block_out);
  return step;
}

absl::StatusOr<ActivationPool> ActivationPool::Create(const ModelConfig& config,
                                                      const StageWeights& weights,
                                                      const Topology& topology, int64_t max_tokens,
                                                      DType dtype, Device device) {
  ActivationPool pool;
  Activations& a = pool.all;
  absl::Status status = absl::OkStatus();
  auto take = [&](DType type, std::initializer_list<int64_t> dims) {
    int64_t bytes = SizeOf(type);
    for (int64_t dim : dims) bytes *= dim;
    absl::StatusOr<Buffer> buffer = Buffer::Allocate(device, bytes);
    if (!buffer.ok()) {
      status = buffer.status();
      return Tensor();
    }
    pool.buffers.push_back(*std::move(buffer));
    return Tensor(pool.buffers.back().data(), type, device, dims);
  };
  const HeadShard& heads = weights.heads;
  const int64_t query_columns = int64_t{heads.query_count} * config.head_dim;
  const int64_t kv_columns = int64_t{heads.kv_count} * config.head_dim;
  a.hidden = take(DType::kFloat32, {max_tokens, config.hidden_size});
  a.normed = take(dtype, {max_tokens, config.hidden_size});
  a.qkv = take(dtype, {max_tokens, query_columns + 2 * kv_columns});
  a.attention = take(dtype, {max_tokens, query_columns});
  if (config.gated_mlp) a.gate_up = take(dtype, {max_tokens, 2 * weights.intermediate.padded});
  a.intermediate = take(dtype, {max_tokens, weights.intermediate.padded});
  a.block_out = take(DType::kFloat32, {max_tokens, config.hidden_size});
  for (const LayerWeights& layer : weights.layers) {
    if (layer.key_mlp.dense_in.weight.empty() || !a.key_value_mlp.empty()) continue;
    a.key_value_mlp = take(dtype, {max_tokens, layer.key_mlp.dense_in.weight.dim(0)});
  }
  if (topology.last_stage()) {
    const int64_t tp_size = topology.config.tp_size;
    const int64_t rows = LogitRows(device, tp_size * weights.vocab.padded);
    a.logit_hidden = take(DType::kFloat32, {rows, config.hidden_size});
    a.logit_normed = take(dtype, {rows, config.hidden_size});
    a.logit_shard = take(DType::kFloat32, {rows, weights.vocab.padded});
    if (tp_size == 1) {
      a.logits = a.logit_shard;
    } else if (topology.tp_rank() == 0) {
      a.logit_parts = take(DType::kFloat32, {tp_size, rows, weights.vocab.padded});
      a.logits = take(DType::kFloat32, {rows, tp_size * weights.vocab.padded});
    }
  }
  RETURN_IF_ERROR(status);
  return pool;
}

}  // namespace polystrate
