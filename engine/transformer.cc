#include "engine/transformer.h"

#include <cmath>

namespace polystrate {
namespace {

// What a layer projects its rows to. A reuser has but the query; an owner whose query comes later,
// of fewer rows, has the other two.
struct Projections {
  Tensor query;
  Tensor key;
  Tensor value;
};

int64_t QueryColumns(const TransformerContext& context) {
  return int64_t{context.weights.heads.query_count} * context.config.head_dim;
}
int64_t KvColumns(const TransformerContext& context) {
  return int64_t{context.weights.heads.kv_count} * context.config.head_dim;
}

// `columns` of a.qkv's columns, behind `before` others, as a matrix whose rows lie without a gap:
// into one with gaps oneDNN multiplies by a slower path, which takes memory at each call.
Tensor Packed(const Activations& a, int64_t before, int64_t columns) {
  const int64_t rows = a.qkv.dim(0);
  char* data = static_cast<char*>(a.qkv.raw()) + rows * before * SizeOf(a.qkv.dtype());
  return Tensor(data, a.qkv.dtype(), a.qkv.device(), {rows, columns});
}

// out = the given rows of qkv_proj times a.normed.
void ProjectRows(const TransformerContext& context, const LayerWeights& layer, const Activations& a,
                 int64_t begin, int64_t count, const Tensor& out) {
  const LinearWeights& w = layer.qkv_proj;
  Gemm(context.stream, a.normed, w.weight.Rows(begin, count),
       w.bias.empty() ? Tensor() : w.bias.Rows(begin, count), out);
}

void KeyValueMlp(const TransformerContext& context, const KeyValueMlpWeights& mlp,
                 const Activations& a, const Tensor& out) {
  Gemm(context.stream, a.normed, mlp.dense_in.weight, mlp.dense_in.bias, a.key_value_mlp,
       {.activation = context.config.activation});
  Gemm(context.stream, a.key_value_mlp, mlp.dense_out.weight, mlp.dense_out.bias, out);
}

// a.normed = what the query is projected from, and K and V too unless they have a norm of their
// own. `add`: as for Norm.
void InputNorm(const TransformerContext& context, const LayerWeights& layer, const Activations& a,
               const Tensor& add) {
  Norm(context.stream, context.config, layer.input_layernorm, a.hidden, a.normed, add);
}

// From a.hidden on, which becomes a.hidden + add first unless add is empty.
Tensor ProjectQuery(const TransformerContext& context, const LayerWeights& layer,
                    const Activations& a, const Tensor& add) {
  InputNorm(context, layer, a, add);
  const Tensor query = Packed(a, 0, QueryColumns(context));
  ProjectRows(context, layer, a, 0, query.dim(1), query);
  return query;
}

// An owner's, from a.hidden (+ add) on; they lie behind the query's place, which they leave alone.
Projections ProjectKeyAndValue(const TransformerContext& context, const LayerWeights& layer,
                               const Activations& a, const Tensor& add) {
  const NormWeights& norm =
      context.config.separate_kv_norm ? layer.kv_layernorm : layer.input_layernorm;
  Norm(context.stream, context.config, norm, a.hidden, a.normed, add);
  const int64_t query = QueryColumns(context), kv = KvColumns(context);
  if (context.config.use_key_value_mlp) {
    const Projections p = {{}, Packed(a, query, kv), Packed(a, query + kv, kv)};
    KeyValueMlp(context, layer.key_mlp, a, p.key);
    KeyValueMlp(context, layer.value_mlp, a, p.value);
    return p;
  }
  const Tensor both = Packed(a, query, 2 * kv);
  ProjectRows(context, layer, a, query, 2 * kv, both);
  return {{}, both.Columns(0, kv), both.Columns(kv, kv)};
}

// All three of the same rows, in one product where they are one matrix's and of one input; from
// a.hidden (+ add) on.
Projections Project(const TransformerContext& context, const LayerWeights& layer,
                    const Activations& a, const Tensor& add) {
  const ModelConfig& config = context.config;
  if (layer.owner && !config.use_key_value_mlp && !config.separate_kv_norm) {
    const int64_t query = QueryColumns(context), kv = KvColumns(context);
    InputNorm(context, layer, a, add);
    ProjectRows(context, layer, a, 0, query + 2 * kv, a.qkv);
    return {a.qkv.Columns(0, query), a.qkv.Columns(query, kv), a.qkv.Columns(query + kv, kv)};
  }
  if (!layer.owner) return {ProjectQuery(context, layer, a, add), {}, {}};
  Projections p = ProjectKeyAndValue(context, layer, a, add);
  p.query = ProjectQuery(context, layer, a, /*add=*/{});
  return p;
}

// The query as attention takes it, and an owner's key and value to its slot of the cache.
void RotateAndStore(const TransformerContext& context, const LayerWeights& layer,
                    const StepInputs& inputs, const Projections& p) {
  const Stream& stream = context.stream;
  const ModelConfig& config = context.config;
  if (config.qk_norm && !p.query.empty()) {
    HeadRmsNorm(stream, layer.q_norm, config.norm_epsilon, p.query);
  }
  if (p.key.empty()) {
    return ApplyRope(stream, context.rope, inputs.positions, config.head_dim, p.query);
  }
  if (config.qk_norm) HeadRmsNorm(stream, layer.k_norm, config.norm_epsilon, p.key);
  // pre_rope caches raw keys, because reusers read them so; the owner rotates them as it reads.
  const bool rotate_key = config.reuse_keys == ReuseKeys::kPostRope;
  RotateAndStoreKv(stream, context.rope, inputs.positions, config.head_dim, rotate_key, p.query,
                   p.key, p.value, inputs.slot_mapping, context.kv_cache.slot(layer.layer));
}

// a.block_out = this rank's part of the attention block's output; query is rotated.
void Attention(const TransformerContext& context, const LayerWeights& layer,
               const StepInputs& inputs, const Tensor& query, const Activations& a) {
  const Stream& stream = context.stream;
  const ModelConfig& config = context.config;
  AttentionOptions options;
  options.head_dim = config.head_dim;
  options.queries_per_kv_head = context.weights.heads.queries_per_kv_head;
  options.query_head_phase = context.weights.heads.phase;
  options.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  if (config.reuse_keys == ReuseKeys::kPreRope && layer.owner) options.rotate_keys = &context.rope;
  PagedAttention(stream, query, context.kv_cache.slot(layer.layer), inputs.batch, options,
                 a.attention);
  Gemm(stream, a.attention, layer.o_proj.weight, layer.o_proj.bias, a.block_out);
}

// a.block_out (+)= this rank's part of the MLP's output.
void Mlp(const TransformerContext& context, const LayerWeights& layer, const Activations& a,
         bool accumulate) {
  const Stream& stream = context.stream;
  const Activation activation = context.config.activation;
  const LinearWeights& first = layer.gate_up_proj;
  if (context.config.gated_mlp) {
    Gemm(stream, a.normed, first.weight, first.bias, a.gate_up);
    GatedActivation(stream, a.gate_up, activation, a.intermediate);
  } else {
    Gemm(stream, a.normed, first.weight, first.bias, a.intermediate, {.activation = activation});
  }
  Gemm(stream, a.intermediate, layer.down_proj.weight, layer.down_proj.bias, a.block_out,
       {.accumulate = accumulate});
}

// From the rotated query on; what it leaves in a.block_out is to be added to a.hidden.
void AttentionAndMlp(const TransformerContext& context, const LayerWeights& layer,
                     const StepInputs& inputs, const Tensor& query, const Activations& a) {
  const Stream& stream = context.stream;
  const bool parallel = context.config.use_parallel_residual;

  Attention(context, layer, inputs, query, a);
  if (!parallel) context.tp.AllReduceSum(stream, a.block_out);
  Norm(stream, context.config, layer.post_attention_layernorm, a.hidden, a.normed,
       parallel ? Tensor() : a.block_out);
  Mlp(context, layer, a, /*accumulate=*/parallel);
  context.tp.AllReduceSum(stream, a.block_out);
}

}  // namespace

void Norm(const Stream& stream, const ModelConfig& config, const NormWeights& weights,
          const Tensor& x, const Tensor& out, const Tensor& add) {
  switch (config.norm) {
    case NormKind::kLayerNorm:
      return LayerNorm(stream, x, weights.weight, weights.bias, config.norm_epsilon, out, add);
    case NormKind::kRmsNorm:
      return RmsNorm(stream, x, weights.weight, config.norm_epsilon, out, add);
  }
}

void DecoderLayers(const TransformerContext& context, absl::Span<const LayerWeights> layers,
                   const StepInputs& inputs, const Activations& a) {
  Tensor add;  // what the layer below has left to its successor's norm
  for (const LayerWeights& layer : layers) {
    const Projections p = Project(context, layer, a, add);
    RotateAndStore(context, layer, inputs, p);
    AttentionAndMlp(context, layer, inputs, p.query, a);
    add = a.block_out;
  }
  if (!add.empty()) AddInPlace(context.stream, add, a.hidden);
}

void WriteKeysAndValues(const TransformerContext& context, const LayerWeights& layer,
                        const StepInputs& inputs, const Activations& a) {
  CHECK(layer.owner);
  RotateAndStore(context, layer, inputs, ProjectKeyAndValue(context, layer, a, /*add=*/{}));
}

void DecoderLayerFromQuery(const TransformerContext& context, const LayerWeights& layer,
                           const StepInputs& inputs, const Activations& a) {
  const Projections p = {ProjectQuery(context, layer, a, /*add=*/{}), {}, {}};
  RotateAndStore(context, layer, inputs, p);
  AttentionAndMlp(context, layer, inputs, p.query, a);
  AddInPlace(context.stream, a.block_out, a.hidden);
}

}  // namespace polystrate
