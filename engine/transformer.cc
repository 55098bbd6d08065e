#include "engine/transformer.h"

#include <cmath>

namespace polystrate {
namespace {

// The columns of a.qkv; a reuser has but the query.
struct Projections {
  Tensor query;
  Tensor key;
  Tensor value;
};

Projections SplitColumns(const TransformerContext& context, const LayerWeights& layer,
                         const Activations& a) {
  const int64_t query = int64_t{context.weights.heads.query_count} * context.config.head_dim;
  // Row on row without a gap: into a matrix with gaps oneDNN multiplies by a slower path, which
  // takes memory at each call.
  if (!layer.owner) {
    return {Tensor(a.qkv.raw(), a.qkv.dtype(), a.qkv.device(), {a.qkv.dim(0), query}), {}, {}};
  }
  const int64_t kv = int64_t{context.weights.heads.kv_count} * context.config.head_dim;
  return {a.qkv.Columns(0, query), a.qkv.Columns(query, kv), a.qkv.Columns(query + kv, kv)};
}

void KeyValueMlp(const TransformerContext& context, const KeyValueMlpWeights& mlp,
                 const Activations& a, const Tensor& out) {
  Gemm(context.stream, a.normed, mlp.dense_in.weight, mlp.dense_in.bias, a.key_value_mlp,
       {.activation = context.config.activation});
  Gemm(context.stream, a.key_value_mlp, mlp.dense_out.weight, mlp.dense_out.bias, out);
}

// Q of every layer; K and V of an owner, which alone has weights for them.
void Project(const TransformerContext& context, const LayerWeights& layer, const Activations& a,
             const Projections& p) {
  const bool query_alone = !layer.owner || context.config.use_key_value_mlp;
  Gemm(context.stream, a.normed, layer.qkv_proj.weight, layer.qkv_proj.bias,
       query_alone ? p.query : a.qkv);
  if (layer.owner && context.config.use_key_value_mlp) {
    KeyValueMlp(context, layer.key_mlp, a, p.key);
    KeyValueMlp(context, layer.value_mlp, a, p.value);
  }
}

// a.block_out = this rank's part of the attention block's output.
void Attention(const TransformerContext& context, const LayerWeights& layer,
               const StepInputs& inputs, const Activations& a) {
  const Stream& stream = context.stream;
  const ModelConfig& config = context.config;
  const bool pre_rope = config.reuse_keys == ReuseKeys::kPreRope;
  const Projections p = SplitColumns(context, layer, a);
  const KvSlot& slot = context.kv_cache.slot(layer.layer);

  Project(context, layer, a, p);
  if (layer.owner) {
    // pre_rope caches raw keys, because reusers read them so; the owner rotates them as it reads.
    if (!pre_rope) ApplyRope(stream, context.rope, inputs.positions, config.head_dim, p.key);
    StoreKv(stream, p.key, p.value, inputs.slot_mapping, slot);
  }
  ApplyRope(stream, context.rope, inputs.positions, config.head_dim, p.query);

  AttentionOptions options;
  options.head_dim = config.head_dim;
  options.queries_per_kv_head = context.weights.heads.queries_per_kv_head;
  options.query_head_phase = context.weights.heads.phase;
  options.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  if (pre_rope && layer.owner) options.rotate_keys = &context.rope;
  PagedAttention(stream, p.query, slot, inputs.batch, options, a.attention);
  Gemm(stream, a.attention, layer.dense.weight, layer.dense.bias, a.block_out);
}

// a.block_out (+)= this rank's part of the MLP's output.
void Mlp(const TransformerContext& context, const LayerWeights& layer, const Activations& a,
         bool accumulate) {
  Gemm(context.stream, a.normed, layer.h_to_4h.weight, layer.h_to_4h.bias, a.intermediate,
       {.activation = context.config.activation});
  Gemm(context.stream, a.intermediate, layer.four_h_to_h.weight, layer.four_h_to_h.bias,
       a.block_out, {.accumulate = accumulate});
}

}  // namespace

void DecoderLayer(const TransformerContext& context, const LayerWeights& layer,
                  const StepInputs& inputs, const Activations& a) {
  const Stream& stream = context.stream;
  const float epsilon = context.config.layer_norm_epsilon;
  const bool parallel = context.config.use_parallel_residual;
  const NormWeights& ln1 = layer.input_layernorm;
  const NormWeights& ln2 = layer.post_attention_layernorm;

  LayerNorm(stream, a.hidden, ln1.weight, ln1.bias, epsilon, a.normed);
  Attention(context, layer, inputs, a);
  if (!parallel) {
    context.tp.AllReduceSum(stream, a.block_out);
    AddInPlace(stream, a.block_out, a.hidden);
  }
  LayerNorm(stream, a.hidden, ln2.weight, ln2.bias, epsilon, a.normed);
  Mlp(context, layer, a, /*accumulate=*/parallel);
  context.tp.AllReduceSum(stream, a.block_out);
  AddInPlace(stream, a.block_out, a.hidden);
}

}  // namespace polystrate
