#include "engine/weights.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/architecture.h"
#include "engine/checkpoint.h"
#include "engine/transfer_plan.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Rows of an MLP that a rank holds are padded to this, so that GEMM kernels see no odd sizes.
constexpr int64_t kIntermediateAlignment = 32;

// Plans a whole stage. Names are stems (engine/architecture.h), whole ones of the file.
class StageLoader {
 public:
  // `checkpoint` is null where there is none and weights are dummies.
  StageLoader(const Checkpoint* checkpoint, const ModelConfig& config, const Topology& topology,
              const Stage& stage, DType dtype);

  absl::Status Check();
  absl::StatusOr<int64_t> CountBytes();
  absl::StatusOr<StageWeights> Load(Device device, const std::function<void(double)>& progress);

 private:
  enum Part { kQuery, kKey, kValue };

  absl::Status Plan();
  absl::Status PlanLayer(int layer, LayerWeights* weights);
  absl::Status PlanQkv(LayerWeights* layer);
  void PlanHeads(int layer, Part part, bool fused, int64_t dst_row, const LinearWeights& dst);
  void PlanKeyValueMlp(const std::string& name, KeyValueMlpWeights* mlp);
  void PlanColumnParallel(const std::string& name, int64_t out, int64_t in, const ShardRange& rows,
                          bool bias, LinearWeights* linear);
  void PlanRowParallel(const std::string& name, int64_t in, const ShardRange& columns, bool bias,
                       LinearWeights* linear);
  void PlanVocabulary(absl::string_view name, Tensor* table);
  void PlanGateUp(int layer, LinearWeights* linear);
  void PlanNorm(const std::string& name, NormWeights* norm);
  void PlanHeadNorm(const std::string& name, Tensor* norm);
  void PlaceLinear(int64_t out, int64_t in, bool bias, LinearWeights* linear);

  const Checkpoint* checkpoint_;
  const ModelConfig& config_;
  const TensorNames& names_;
  const Topology& topology_;
  const Stage& stage_;
  const DType dtype_;
  StageWeights weights_;
  TransferPlan plan_;
};

StageLoader::StageLoader(const Checkpoint* checkpoint, const ModelConfig& config,
                         const Topology& topology, const Stage& stage, DType dtype)
    : checkpoint_(checkpoint),
      config_(config),
      names_(config.architecture->tensors),
      topology_(topology),
      stage_(stage),
      dtype_(dtype) {
  const int tp_size = topology.config.tp_size;
  const int tp_rank = topology.tp_rank();
  weights_.heads = ShardHeads(config.num_heads, config.num_kv_heads, tp_size, tp_rank);
  weights_.vocab = Split(config.vocab_size, tp_size, tp_rank, /*alignment=*/1);
  weights_.intermediate = Split(config.intermediate_size, tp_size, tp_rank, kIntermediateAlignment);
  // The plan points into the layers.
  weights_.layers.resize(static_cast<size_t>(stage.end_layer - stage.first_layer));
}

absl::Status StageLoader::Check() {
  RETURN_IF_ERROR(Plan());
  return plan_.Check(*checkpoint_);
}

absl::StatusOr<int64_t> StageLoader::CountBytes() {
  RETURN_IF_ERROR(Plan());
  return plan_.num_bytes();
}

absl::StatusOr<StageWeights> StageLoader::Load(Device device,
                                               const std::function<void(double)>& progress) {
  RETURN_IF_ERROR(Plan());
  ASSIGN_OR_RETURN(Buffer buffer, checkpoint_ != nullptr
                                      ? plan_.Execute(*checkpoint_, device, progress)
                                      : plan_.ExecuteDummy(device, progress));
  weights_.buffers.push_back(std::move(buffer));
  const bool tied = config_.tie_word_embeddings && topology_.first_stage();
  if (tied && topology_.last_stage()) weights_.lm_head = weights_.embedding;
  return std::move(weights_);
}

absl::Status StageLoader::Plan() {
  if (topology_.first_stage()) PlanVocabulary(names_.embedding, &weights_.embedding);
  for (int layer = stage_.first_layer; layer < stage_.end_layer; ++layer)
    RETURN_IF_ERROR(PlanLayer(layer, &weights_.layers[layer - stage_.first_layer]));
  if (!topology_.last_stage()) return absl::OkStatus();
  PlanNorm(std::string(names_.final_norm), &weights_.final_norm);
  if (!config_.tie_word_embeddings) {
    PlanVocabulary(names_.lm_head, &weights_.lm_head);
  } else if (!topology_.first_stage()) {
    PlanVocabulary(names_.embedding, &weights_.lm_head);
  }
  return absl::OkStatus();
}

absl::Status StageLoader::PlanLayer(int layer, LayerWeights* w) {
  w->layer = layer;
  w->owner = config_.sharing.owns(layer);
  const auto name = [&](absl::string_view stem) { return names_.InLayer(layer, stem); };
  const HeadShard& heads = weights_.heads;
  const int64_t head_columns = int64_t{heads.query_count} * config_.head_dim;
  PlanNorm(name(names_.input_norm), &w->input_layernorm);
  PlanNorm(name(names_.post_attention_norm), &w->post_attention_layernorm);
  if (w->owner && config_.separate_kv_norm) PlanNorm(name(names_.kv_norm), &w->kv_layernorm);
  if (config_.qk_norm) PlanHeadNorm(name(names_.query_norm), &w->q_norm);
  if (config_.qk_norm && w->owner) PlanHeadNorm(name(names_.key_norm), &w->k_norm);
  RETURN_IF_ERROR(PlanQkv(w));
  PlanRowParallel(name(names_.output), int64_t{config_.num_heads} * config_.head_dim,
                  {int64_t{heads.query_begin} * config_.head_dim, head_columns, head_columns},
                  config_.output_bias, &w->o_proj);
  PlanGateUp(layer, &w->gate_up_proj);
  PlanRowParallel(name(names_.down), config_.intermediate_size, weights_.intermediate,
                  config_.mlp_bias, &w->down_proj);
  return absl::OkStatus();
}

absl::Status StageLoader::PlanQkv(LayerWeights* layer) {
  const auto weight = [&](absl::string_view stem) {
    return names_.InLayer(layer->layer, stem) + ".weight";
  };
  const bool fused = checkpoint_ != nullptr && !names_.fused_qkv.empty() &&
                     checkpoint_->Find(weight(names_.query)) == nullptr &&
                     checkpoint_->Find(weight(names_.fused_qkv)) != nullptr;
  if (fused && (config_.num_kv_heads != config_.num_heads || config_.use_key_value_mlp)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", weight(names_.fused_qkv), "' holds a key and a value head for each of ",
        config_.num_heads, " query heads, but by config.json num_key_value_heads is ",
        config_.num_kv_heads, config_.use_key_value_mlp ? " and use_key_value_mlp is true" : "",
        "; such a model stores ", names_.query, ", ", names_.key, " and ", names_.value));
  }
  const bool projects_kv = layer->owner && !config_.use_key_value_mlp;
  const int64_t query_rows = int64_t{weights_.heads.query_count} * config_.head_dim;
  const int64_t kv_rows = int64_t{weights_.heads.kv_count} * config_.head_dim;
  PlaceLinear(query_rows + (projects_kv ? 2 * kv_rows : 0), config_.hidden_size, config_.qkv_bias,
              &layer->qkv_proj);
  PlanHeads(layer->layer, kQuery, fused, 0, layer->qkv_proj);
  if (projects_kv) {
    PlanHeads(layer->layer, kKey, fused, query_rows, layer->qkv_proj);
    PlanHeads(layer->layer, kValue, fused, query_rows + kv_rows, layer->qkv_proj);
  } else if (layer->owner) {
    PlanKeyValueMlp(names_.InLayer(layer->layer, names_.key), &layer->key_mlp);
    PlanKeyValueMlp(names_.InLayer(layer->layer, names_.value), &layer->value_mlp);
  }
  // What a reuser has stored for K and V, if anything, is not looked at.
  return absl::OkStatus();
}

// This rank's heads of one part, to rows from dst_row on. Fused checkpoints have the parts head by
// head, [heads, {query, key, value}, head_dim] rows, so that a rank's heads are not adjacent.
void StageLoader::PlanHeads(int layer, Part part, bool fused, int64_t dst_row,
                            const LinearWeights& dst) {
  const absl::string_view stems[] = {names_.query, names_.key, names_.value};
  const std::string name = names_.InLayer(layer, fused ? names_.fused_qkv : stems[part]);
  const bool query = part == kQuery;
  const int begin = query ? weights_.heads.query_begin : weights_.heads.kv_begin;
  const int count = query ? weights_.heads.query_count : weights_.heads.kv_count;
  const int stored_heads =
      fused ? 3 * config_.num_heads : (query ? config_.num_heads : config_.num_kv_heads);
  const int64_t stored_rows = int64_t{stored_heads} * config_.head_dim;
  const int64_t rows = int64_t{fused ? 1 : count} * config_.head_dim;
  const int num_reads = fused ? count : 1;
  for (int i = 0; i < num_reads; ++i) {
    const int64_t stored_head = fused ? 3 * (begin + i) + part : begin;
    const Block block = {stored_head * config_.head_dim, rows, 0, config_.hidden_size};
    const int64_t to = dst_row + i * rows;
    plan_.Read(name + ".weight", {stored_rows, config_.hidden_size}, block, dst.weight, to);
    if (config_.qkv_bias)
      plan_.Read(name + ".bias", {stored_rows}, {block.row_begin, rows}, dst.bias, to);
  }
}

// dense_in is whole on every rank: splitting it would cost an all-reduce of its own.
void StageLoader::PlanKeyValueMlp(const std::string& name, KeyValueMlpWeights* mlp) {
  const int64_t inner = config_.kv_intermediate_size;
  const ShardRange all = Split(inner, /*tp_size=*/1, /*tp_rank=*/0, kIntermediateAlignment);
  const int64_t out = int64_t{config_.num_kv_heads} * config_.head_dim;
  const int64_t begin = int64_t{weights_.heads.kv_begin} * config_.head_dim;
  const int64_t rows = int64_t{weights_.heads.kv_count} * config_.head_dim;
  const bool bias = config_.qkv_bias;
  PlanColumnParallel(absl::StrCat(name, names_.key_value_in), inner, config_.hidden_size, all, bias,
                     &mlp->dense_in);
  PlaceLinear(rows, all.padded, bias, &mlp->dense_out);
  const std::string dense_out = absl::StrCat(name, names_.key_value_out);
  plan_.Read(dense_out + ".weight", {out, inner}, {begin, rows, 0, inner}, mlp->dense_out.weight);
  if (bias) plan_.Read(dense_out + ".bias", {out}, {begin, rows}, mlp->dense_out.bias);
}

void StageLoader::PlanColumnParallel(const std::string& name, int64_t out, int64_t in,
                                     const ShardRange& rows, bool bias, LinearWeights* linear) {
  PlaceLinear(rows.padded, in, bias, linear);
  plan_.Read(name + ".weight", {out, in}, {rows.begin, rows.count, 0, in}, linear->weight);
  if (bias) plan_.Read(name + ".bias", {out}, {rows.begin, rows.count}, linear->bias);
}

// [hidden_size, in], of which this rank holds `columns`. Only tp_rank 0 has the bias, so that the
// all-reduce that follows adds it once.
void StageLoader::PlanRowParallel(const std::string& name, int64_t in, const ShardRange& columns,
                                  bool bias, LinearWeights* linear) {
  const int64_t out = config_.hidden_size;
  const bool has_bias = bias && topology_.tp_rank() == 0;
  PlaceLinear(out, columns.padded, has_bias, linear);
  plan_.Read(name + ".weight", {out, in}, {0, out, columns.begin, columns.count}, linear->weight);
  if (has_bias) plan_.Read(name + ".bias", {out}, {0, out}, linear->bias);
}

void StageLoader::PlanVocabulary(absl::string_view name, Tensor* table) {
  const ShardRange& vocab = weights_.vocab;
  const int64_t hidden_size = config_.hidden_size;
  plan_.Place(dtype_, {vocab.padded, hidden_size}, table);
  plan_.Read(std::string(name), {config_.vocab_size, hidden_size},
             {vocab.begin, vocab.count, 0, hidden_size}, *table);
}

// Two column-parallel matrices, one above the other, in a gated MLP.
void StageLoader::PlanGateUp(int layer, LinearWeights* linear) {
  const int64_t out = config_.intermediate_size;
  const int64_t in = config_.hidden_size;
  const ShardRange& rows = weights_.intermediate;
  const bool gated = config_.gated_mlp;
  const bool bias = config_.mlp_bias;
  PlaceLinear((gated ? 2 : 1) * rows.padded, in, bias, linear);
  const auto read = [&](absl::string_view stem, int64_t to) {
    const std::string name = names_.InLayer(layer, stem);
    plan_.Read(name + ".weight", {out, in}, {rows.begin, rows.count, 0, in}, linear->weight, to);
    if (bias) plan_.Read(name + ".bias", {out}, {rows.begin, rows.count}, linear->bias, to);
  };
  if (gated) read(names_.gate, 0);
  read(names_.up, gated ? rows.padded : 0);
}

void StageLoader::PlanNorm(const std::string& name, NormWeights* norm) {
  const int64_t size = config_.hidden_size;
  plan_.Place(DType::kFloat32, {size}, &norm->weight);
  plan_.Read(name + ".weight", {size}, {0, size}, norm->weight);
  if (config_.norm == NormKind::kRmsNorm) return;
  plan_.Place(DType::kFloat32, {size}, &norm->bias);
  if (config_.norm_bias) plan_.Read(name + ".bias", {size}, {0, size}, norm->bias);
}

void StageLoader::PlanHeadNorm(const std::string& name, Tensor* norm) {
  const int64_t size = config_.head_dim;
  plan_.Place(DType::kFloat32, {size}, norm);
  plan_.Read(name + ".weight", {size}, {0, size}, *norm);
}

void StageLoader::PlaceLinear(int64_t out, int64_t in, bool bias, LinearWeights* linear) {
  plan_.Place(dtype_, {out, in}, &linear->weight);
  if (bias) plan_.Place(DType::kFloat32, {out}, &linear->bias);
}

// The checkpoint of a bare model, GPTNeoXModel for example, lacks the prefix of all names and the
// LM head.
absl::Status CheckHasHead(const Checkpoint& checkpoint, const std::string& model_dir,
                          absl::string_view embedding) {
  const size_t prefix_size = embedding.find('.') + 1;
  if (checkpoint.Find(std::string(embedding)) != nullptr ||
      checkpoint.Find(std::string(embedding.substr(prefix_size))) == nullptr) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(model_dir, ": the tensors lack the '", embedding.substr(0, prefix_size),
                   "' prefix, so this is the bare model without its LM head; save it as a model "
                   "for causal language modelling"));
}

absl::Status CheckCanHold(const ModelConfig& config, const Topology& topology, const Stage& stage,
                          DType dtype, Device device) {
  CHECK(config.architecture != nullptr);
  CHECK(stage.first_layer >= 0 && stage.first_layer < stage.end_layer);
  CHECK_LE(stage.end_layer, config.num_layers);
  const bool float16 = dtype == DType::kFloat16 && device.type == DeviceType::kCuda;
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16 && !float16) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights cannot be held in ", Name(dtype),
                     "; use float32 or bfloat16, or on a GPU float16"));
  }
  return CheckTpDividesHeads(config.num_heads, topology.config.tp_size);
}

}  // namespace

int64_t StageWeights::num_bytes() const {
  int64_t total = 0;
  for (const Buffer& buffer : buffers) total += buffer.num_bytes();
  return total;
}

absl::StatusOr<StageWeights> LoadStageWeights(const std::string& model_dir,
                                              const ModelConfig& config, const Topology& topology,
                                              const Stage& stage, DType dtype, Device device,
                                              const std::function<void(double)>& progress) {
  RETURN_IF_ERROR(CheckCanHold(config, topology, stage, dtype, device));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  RETURN_IF_ERROR(CheckHasHead(checkpoint, model_dir, config.architecture->tensors.embedding));
  return StageLoader(&checkpoint, config, topology, stage, dtype).Load(device, progress);
}

absl::StatusOr<StageWeights> DummyStageWeights(const ModelConfig& config, const Topology& topology,
                                               const Stage& stage, DType dtype, Device device,
                                               const std::function<void(double)>& progress) {
  RETURN_IF_ERROR(CheckCanHold(config, topology, stage, dtype, device));
  return StageLoader(nullptr, config, topology, stage, dtype).Load(device, progress);
}

absl::StatusOr<int64_t> StageWeightBytes(const ModelConfig& config, const Topology& topology,
                                         const Stage& stage, DType dtype) {
  CHECK(config.architecture != nullptr);
  RETURN_IF_ERROR(CheckTpDividesHeads(config.num_heads, topology.config.tp_size));
  return StageLoader(nullptr, config, topology, stage, dtype).CountBytes();
}

absl::Status CheckWeights(const std::string& model_dir, const ModelConfig& config) {
  CHECK(config.architecture != nullptr);
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  RETURN_IF_ERROR(CheckHasHead(checkpoint, model_dir, config.architecture->tensors.embedding));
  const Topology alone({1, 1}, 0);
  Stage stage;
  stage.end_layer = config.num_layers;
  return StageLoader(&checkpoint, config, alone, stage, DType::kFloat32).Check();
}

}  // namespace polystrate
