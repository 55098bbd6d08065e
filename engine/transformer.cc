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

// out = the given rows of qkv_proj times the norm of a.hidden, which becomes a.hidden + add first
// unless add is empty.
NormProduct ProductOfRows(const TransformerContext& context, const NormWeights& norm,
                          const LayerWeights& layer, const Tensor& add, int64_t begin,
                          int64_t count, const Tensor& out) {
  const LinearWeights& w = layer.qkv_proj;
  return {NormOf(context.config, norm, add), w.weight.Rows(begin, count),
          w.bias.empty() ? Tensor() : w.bias.Rows(begin, count), out};
}

// What an MLP begins with. `add`: as for ProductOfRows.
NormProduct FirstOfMlp(const TransformerContext& context, const LayerWeights& layer,
                       const Activations& a, const Tensor& add) {
  const ModelConfig& config = context.config;
  const LinearWeights& w = layer.gate_up_proj;
  const NormOptions norm = NormOf(config, layer.post_attention_layernorm, add);
  if (config.gated_mlp) return {norm, w.weight, w.bias, a.gate_up};
  return {norm, w.weight, w.bias, a.intermediate, {.activation = config.activation}};
}

// The query's product, and an MLP's first where that is of the same rows.
void ProjectWithMlp(const TransformerContext& context, const LayerWeights& layer,
                    const Activations& a, const NormProduct& query) {
  if (!context.config.use_parallel_residual) {
    return NormGemm(context.stream, a.hidden, a.normed, query);
  }
  NormGemms(context.stream, a.hidden, a.normed, query, FirstOfMlp(context, layer, a, /*add=*/{}));
}

void KeyValueMlp(const TransformerContext& context, const NormOptions& norm,
                 const KeyValueMlpWeights& mlp, const Activations& a, const Tensor& out) {
  const Activation activation = context.config.activation;
  NormGemm(context.stream, a.hidden, a.normed,
           {norm, mlp.dense_in.weight, mlp.dense_in.bias, a.key_value_mlp, {activation}});
  Gemm(context.stream, a.key_value_mlp, mlp.dense_out.weight, mlp.dense_out.bias, out);
}

// `add`: as for ProductOfRows.
Tensor ProjectQuery(const TransformerContext& context, const LayerWeights& layer,
                    const Activations& a, const Tensor& add) {
  const Tensor query = Packed(a, 0, QueryColumns(context));
  ProjectWithMlp(context, layer, a,
                 ProductOfRows(context, layer.input_layernorm, layer, add, 0, query.dim(1), query));
  return query;
}

// An owner's; they lie behind the query's place, which they leave alone. `add`: as for
// ProductOfRows.
Projections ProjectKeyAndValue(const TransformerContext& context, const LayerWeights& layer,
                               const Activations& a, const Tensor& add) {
  const NormWeights& norm =
      context.config.separate_kv_norm ? layer.kv_layernorm : layer.input_layernorm;
  const int64_t query = QueryColumns(context), kv = KvColumns(context);
  if (context.config.use_key_value_mlp) {
    const Projections p = {{}, Packed(a, query, kv), Packed(a, query + kv, kv)};
    KeyValueMlp(context, NormOf(context.config, norm, add), layer.key_mlp, a, p.key);
    KeyValueMlp(context, NormOf(context.config, norm), layer.value_mlp, a, p.value);
    return p;
  }
  const Tensor both = Packed(a, query, 2 * kv);
  NormGemm(context.stream, a.hidden, a.normed,
           ProductOfRows(context, norm, layer, add, query, 2 * kv, both));
  return {{}, both.Columns(0, kv), both.Columns(kv, kv)};
}

// All three of the same rows, in one product where they are one matrix's and of one input. `add`:
// as for ProductOfRows.
Projections Project(const TransformerContext& context, const LayerWeights& layer,
                    const Activations& a, const Tensor& add) {
  const ModelConfig& config = context.config;
  if (layer.owner && !config.use_key_value_mlp && !config.separate_kv_norm) {
    const int64_t query = QueryColumns(context), kv = KvColumns(context);
    ProjectWithMlp(
        context, layer, a,
        ProductOfRows(context, layer.input_layernorm, layer, add, 0, query + 2 * kv, a.qkv));
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

// Whether what a block computes here is all of it.
bool Alone(const TransformerContext& context) { return context.tp.size() == 1; }

// Adds a block's output, x weight^T + bias, to the residual stream, or, where other ranks have
// parts of it, to a.block_out, which it replaces if it is the `first` there.
void AddBlock(const TransformerContext& context, const Tensor& x, const LinearWeights& w,
              bool first, const Activations& a) {
  const bool alone = Alone(context);
  Gemm(context.stream, x, w.weight, w.bias, alone ? a.hidden : a.block_out,
       {.accumulate = alone || !first});
}

// What a.hidden lacks of the blocks that were added.
Tensor SumOverRanks(const TransformerContext& context, const Activations& a) {
  if (Alone(context)) return {};
  context.tp.AllReduceSum(context.stream, a.block_out);
  return a.block_out;
}

// To a.attention; query is rotated.
void Attention(const TransformerContext& context, const LayerWeights& layer,
               const StepInputs& inputs, const Tensor& query, const Activations& a) {
  const ModelConfig& config = context.config;
  AttentionOptions options;
  options.head_dim = config.head_dim;
  options.queries_per_kv_head = context.weights.heads.queries_per_kv_head;
  options.query_head_phase = context.weights.heads.phase;
  options.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  if (config.reuse_keys == ReuseKeys::kPreRope && layer.owner) options.rotate_keys = &context.rope;
  PagedAttention(context.stream, query, context.kv_cache.slot(layer.layer), inputs.batch, options,
                 a.attention);
}

// An MLP up to its last product. `add`: as for ProductOfRows.
void Intermediate(const TransformerContext& context, const LayerWeights& layer,
                  const Activations& a, const Tensor& add) {
  const ModelConfig& config = context.config;
  const NormProduct first = FirstOfMlp(context, layer, a, add);
  if (!config.gated_mlp) return NormGemm(context.stream, a.hidden, a.normed, first);
  GatedNormGemm(context.stream, a.hidden, a.normed, first, config.activation, a.intermediate);
}

// From the rotated query on, in a parallel residual with the MLP's first product done. What it
// returns, unless that is empty, is to be added to a.hidden.
Tensor AttentionAndMlp(const TransformerContext& context, const LayerWeights& layer,
                       const StepInputs& inputs, const Tensor& query, const Activations& a) {
  const Stream& stream = context.stream;
  const ModelConfig& config = context.config;
  const bool parallel = config.use_parallel_residual;
  Attention(context, layer, inputs, query, a);
  AddBlock(context, a.attention, layer.o_proj, /*first=*/true, a);
  if (!parallel) {
    Intermediate(context, layer, a, SumOverRanks(context, a));
  } else if (config.gated_mlp) {
    GatedActivation(stream, a.gate_up, config.activation, a.intermediate);
  }
  AddBlock(context, a.intermediate, layer.down_proj, /*first=*/!parallel, a);
  return SumOverRanks(context, a);
}

}  // namespace

NormOptions NormOf(const ModelConfig& config, const NormWeights& weights, const Tensor& add) {
  return {weights.weight, weights.bias, config.norm_epsilon, add};
}

void DecoderLayers(const TransformerContext& context, absl::Span<const LayerWeights> layers,
                   const StepInputs& inputs, const Activations& a) {
  Tensor add;  // what the layer below has left to its successor's norm
  for (const LayerWeights& layer : layers) {
    const Projections p = Project(context, layer, a, add);
    RotateAndStore(context, layer, inputs, p);
    add = AttentionAndMlp(context, layer, inputs, p.query, a);
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
  const Tensor add = AttentionAndMlp(context, layer, inputs, p.query, a);
  if (!add.empty()) AddInPlace(context.stream, add, a.hidden);
}

}  // namespace polystrate
