#include "engine/weights.h"

#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint.h"
#include "engine/tensor_reader.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Rows of an MLP that a rank holds are padded to this, so that GEMM kernels see no odd sizes.
constexpr int64_t kIntermediateAlignment = 32;
constexpr int64_t kTensorAlignment = 64;  // bytes: a cache line, a vector register

// First plans the whole stage, which costs nothing and so finds every missing or misshapen tensor
// before memory is taken or data is read; then takes all memory at once and reads.
class StageLoader {
 public:
  StageLoader(const Checkpoint& checkpoint, const ModelConfig& config, const Topology& topology,
              const Stage& stage, DType dtype, Device device);

  absl::StatusOr<StageWeights> Load(const std::function<void(double)>& progress);

 private:
  enum Part { kQuery, kKey, kValue };

  // A tensor of weights_ that gets its memory when all sizes are known.
  struct Placement {
    Tensor* tensor;
    DType dtype;
    std::vector<int64_t> dims;
    int64_t offset;  // bytes
  };
  // A block of a stored tensor, and the rows of a tensor of weights_ it goes to.
  struct Transfer {
    std::string name;
    std::vector<int64_t> stored_shape;
    Block block;
    const Tensor* dst;
    int64_t dst_row;
  };

  absl::Status Plan();
  absl::Status PlanLayer(int layer, LayerWeights* weights);
  absl::Status PlanQkv(const std::string& attention, LayerWeights* layer);
  void PlanHeads(const std::string& attention, Part part, bool fused, int64_t dst_row,
                 const LinearWeights& dst);
  void PlanKeyValueMlp(const std::string& name, KeyValueMlpWeights* mlp);
  void PlanColumnParallel(const std::string& name, int64_t out, int64_t in, const ShardRange& rows,
                          bool bias, LinearWeights* linear);
  void PlanRowParallel(const std::string& name, int64_t in, const ShardRange& columns, bool bias,
                       LinearWeights* linear);
  void PlanVocabulary(const std::string& name, Tensor* table);
  void PlanNorm(const std::string& name, NormWeights* norm);
  void Place(DType dtype, std::vector<int64_t> dims, Tensor* tensor);
  void PlaceLinear(int64_t out, int64_t in, bool bias, LinearWeights* linear);
  absl::Status TakeMemory();

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const Topology& topology_;
  const Stage& stage_;
  const DType dtype_;
  const Device device_;
  StageWeights weights_;
  std::vector<Placement> placements_;
  std::vector<Transfer> transfers_;
  int64_t num_bytes_ = 0;
};

StageLoader::StageLoader(const Checkpoint& checkpoint, const ModelConfig& config,
                         const Topology& topology, const Stage& stage, DType dtype, Device device)
    : checkpoint_(checkpoint),
      config_(config),
      topology_(topology),
      stage_(stage),
      dtype_(dtype),
      device_(device) {
  const int tp_size = topology.config.tp_size;
  const int tp_rank = topology.tp_rank();
  weights_.heads = ShardHeads(config.num_heads, config.num_kv_heads, tp_size, tp_rank);
  weights_.vocab = Split(config.vocab_size, tp_size, tp_rank, /*alignment=*/1);
  weights_.intermediate = Split(config.intermediate_size, tp_size, tp_rank, kIntermediateAlignment);
  // Placements point into the layers.
  weights_.layers.resize(static_cast<size_t>(stage.end_layer - stage.first_layer));
}

absl::StatusOr<StageWeights> StageLoader::Load(const std::function<void(double)>& progress) {
  RETURN_IF_ERROR(Plan());
  TensorReader reader(checkpoint_);
  for (const Transfer& transfer : transfers_)
    RETURN_IF_ERROR(reader.Check(transfer.name, transfer.stored_shape));
  RETURN_IF_ERROR(TakeMemory());
  for (size_t i = 0; i < transfers_.size(); ++i) {
    const Transfer& transfer = transfers_[i];
    const Tensor dst = transfer.dst->Rows(transfer.dst_row, transfer.block.num_rows);
    RETURN_IF_ERROR(reader.Read(transfer.name, transfer.block, dst));
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(transfers_.size()));
  }
  const bool tied = config_.tie_word_embeddings && topology_.first_stage();
  if (tied && topology_.last_stage()) weights_.embed_out = weights_.embed_in;
  return std::move(weights_);
}

absl::Status StageLoader::Plan() {
  if (topology_.first_stage()) PlanVocabulary("gpt_neox.embed_in.weight", &weights_.embed_in);
  for (int layer = stage_.first_layer; layer < stage_.end_layer; ++layer)
    RETURN_IF_ERROR(PlanLayer(layer, &weights_.layers[layer - stage_.first_layer]));
  if (!topology_.last_stage()) return absl::OkStatus();
  PlanNorm("gpt_neox.final_layer_norm", &weights_.final_layer_norm);
  if (!config_.tie_word_embeddings) {
    PlanVocabulary("embed_out.weight", &weights_.embed_out);
  } else if (!topology_.first_stage()) {
    PlanVocabulary("gpt_neox.embed_in.weight", &weights_.embed_out);
  }
  return absl::OkStatus();
}

absl::Status StageLoader::PlanLayer(int layer, LayerWeights* w) {
  w->layer = layer;
  w->owner = config_.sharing.owns(layer);
  const std::string name = absl::StrCat("gpt_neox.layers.", layer, ".");
  const HeadShard& heads = weights_.heads;
  const int64_t hidden_size = config_.hidden_size;
  const int64_t head_columns = int64_t{heads.query_count} * config_.head_dim;
  PlanNorm(name + "input_layernorm", &w->input_layernorm);
  PlanNorm(name + "post_attention_layernorm", &w->post_attention_layernorm);
  RETURN_IF_ERROR(PlanQkv(name + "attention.", w));
  PlanRowParallel(name + "attention.dense", hidden_size,
                  {int64_t{heads.query_begin} * config_.head_dim, head_columns, head_columns},
                  config_.attention_bias, &w->dense);
  PlanColumnParallel(name + "mlp.dense_h_to_4h", config_.intermediate_size, hidden_size,
                     weights_.intermediate, /*bias=*/true, &w->h_to_4h);
  PlanRowParallel(name + "mlp.dense_4h_to_h", config_.intermediate_size, weights_.intermediate,
                  /*bias=*/true, &w->four_h_to_h);
  return absl::OkStatus();
}

absl::Status StageLoader::PlanQkv(const std::string& attention, LayerWeights* layer) {
  const bool fused = checkpoint_.Find(attention + "query.weight") == nullptr &&
                     checkpoint_.Find(attention + "query_key_value.weight") != nullptr;
  if (fused && (config_.num_kv_heads != config_.num_heads || config_.use_key_value_mlp)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor '", attention, "query_key_value.weight' holds a key and a value head for each of ",
        config_.num_heads, " query heads, but by config.json num_key_value_heads is ",
        config_.num_kv_heads, config_.use_key_value_mlp ? " and use_key_value_mlp is true" : "",
        "; such a model stores attention.query, attention.key and attention.value"));
  }
  const bool projects_kv = layer->owner && !config_.use_key_value_mlp;
  const int64_t query_rows = int64_t{weights_.heads.query_count} * config_.head_dim;
  const int64_t kv_rows = int64_t{weights_.heads.kv_count} * config_.head_dim;
  PlaceLinear(query_rows + (projects_kv ? 2 * kv_rows : 0), config_.hidden_size,
              config_.attention_bias, &layer->qkv_proj);
  PlanHeads(attention, kQuery, fused, 0, layer->qkv_proj);
  if (projects_kv) {
    PlanHeads(attention, kKey, fused, query_rows, layer->qkv_proj);
    PlanHeads(attention, kValue, fused, query_rows + kv_rows, layer->qkv_proj);
  } else if (layer->owner) {
    PlanKeyValueMlp(attention + "key.", &layer->key_mlp);
    PlanKeyValueMlp(attention + "value.", &layer->value_mlp);
  }
  // What a reuser has stored for K and V, if anything, is not looked at.
  return absl::OkStatus();
}

// This rank's heads of one part, to rows from dst_row on. Stock checkpoints fuse the parts head by
// head, [heads, {query, key, value}, head_dim] rows, so that a rank's heads are not adjacent.
void StageLoader::PlanHeads(const std::string& attention, Part part, bool fused, int64_t dst_row,
                            const LinearWeights& dst) {
  constexpr const char* kNames[] = {"query", "key", "value"};
  const std::string name = attention + (fused ? "query_key_value" : kNames[part]);
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
    transfers_.push_back(
        {name + ".weight", {stored_rows, config_.hidden_size}, block, &dst.weight, to});
    if (config_.attention_bias) {
      transfers_.push_back({name + ".bias", {stored_rows}, {block.row_begin, rows}, &dst.bias, to});
    }
  }
}

// dense_in is whole on every rank: splitting it would cost an all-reduce of its own.
void StageLoader::PlanKeyValueMlp(const std::string& name, KeyValueMlpWeights* mlp) {
  const int64_t inner = config_.kv_intermediate_size;
  const ShardRange all = Split(inner, /*tp_size=*/1, /*tp_rank=*/0, kIntermediateAlignment);
  const int64_t out = int64_t{config_.num_kv_heads} * config_.head_dim;
  const int64_t begin = int64_t{weights_.heads.kv_begin} * config_.head_dim;
  const int64_t rows = int64_t{weights_.heads.kv_count} * config_.head_dim;
  const bool bias = config_.attention_bias;
  PlanColumnParallel(name + "dense_in", inner, config_.hidden_size, all, bias, &mlp->dense_in);
  PlaceLinear(rows, all.padded, bias, &mlp->dense_out);
  transfers_.push_back({name + "dense_out.weight",
                        {out, inner},
                        {begin, rows, 0, inner},
                        &mlp->dense_out.weight,
                        0});
  if (bias) {
    transfers_.push_back({name + "dense_out.bias", {out}, {begin, rows}, &mlp->dense_out.bias, 0});
  }
}

void StageLoader::PlanColumnParallel(const std::string& name, int64_t out, int64_t in,
                                     const ShardRange& rows, bool bias, LinearWeights* linear) {
  PlaceLinear(rows.padded, in, bias, linear);
  transfers_.push_back(
      {name + ".weight", {out, in}, {rows.begin, rows.count, 0, in}, &linear->weight, 0});
  if (bias)
    transfers_.push_back({name + ".bias", {out}, {rows.begin, rows.count}, &linear->bias, 0});
}

// [hidden_size, in], of which this rank holds `columns`. Only tp_rank 0 has the bias, so that the
// all-reduce that follows adds it once.
void StageLoader::PlanRowParallel(const std::string& name, int64_t in, const ShardRange& columns,
                                  bool bias, LinearWeights* linear) {
  const int64_t out = config_.hidden_size;
  const bool has_bias = bias && topology_.tp_rank() == 0;
  PlaceLinear(out, columns.padded, has_bias, linear);
  transfers_.push_back(
      {name + ".weight", {out, in}, {0, out, columns.begin, columns.count}, &linear->weight, 0});
  if (has_bias) transfers_.push_back({name + ".bias", {out}, {0, out}, &linear->bias, 0});
}

void StageLoader::PlanVocabulary(const std::string& name, Tensor* table) {
  const ShardRange& vocab = weights_.vocab;
  const int64_t hidden_size = config_.hidden_size;
  Place(dtype_, {vocab.padded, hidden_size}, table);
  transfers_.push_back({name,
                        {config_.vocab_size, hidden_size},
                        {vocab.begin, vocab.count, 0, hidden_size},
                        table,
                        0});
}

void StageLoader::PlanNorm(const std::string& name, NormWeights* norm) {
  const int64_t size = config_.hidden_size;
  for (const auto& [part, tensor] :
       {std::pair(".weight", &norm->weight), std::pair(".bias", &norm->bias)}) {
    Place(DType::kFloat32, {size}, tensor);
    transfers_.push_back({name + part, {size}, {0, size}, tensor, 0});
  }
}

void StageLoader::PlaceLinear(int64_t out, int64_t in, bool bias, LinearWeights* linear) {
  Place(dtype_, {out, in}, &linear->weight);
  if (bias) Place(DType::kFloat32, {out}, &linear->bias);
}

void StageLoader::Place(DType dtype, std::vector<int64_t> dims, Tensor* tensor) {
  int64_t bytes = SizeOf(dtype);
  for (const int64_t dim : dims) bytes *= dim;
  placements_.push_back({tensor, dtype, std::move(dims), num_bytes_});
  num_bytes_ += (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

// One buffer, so that it is worth huge pages; zero at first, which is what padding needs.
absl::Status StageLoader::TakeMemory() {
  ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(device_, num_bytes_));
  for (const auto& [tensor, dtype, dims, offset] : placements_) {
    char* data = static_cast<char*>(buffer.data()) + offset;
    *tensor = dims.size() == 1 ? Tensor(data, dtype, device_, {dims[0]})
                               : Tensor(data, dtype, device_, {dims[0], dims[1]});
  }
  weights_.buffers.push_back(std::move(buffer));
  return absl::OkStatus();
}

// The checkpoint of a bare GPTNeoXModel has other names and no LM head.
absl::Status CheckHasHead(const Checkpoint& checkpoint, const std::string& model_dir) {
  if (checkpoint.Find("gpt_neox.embed_in.weight") != nullptr ||
      checkpoint.Find("embed_in.weight") == nullptr) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      model_dir,
      ": the tensors lack the 'gpt_neox.' prefix, so this is a GPTNeoXModel without its LM head; "
      "save it as GPTNeoXForCausalLM"));
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
  CHECK(stage.first_layer >= 0 && stage.first_layer < stage.end_layer);
  CHECK_LE(stage.end_layer, config.num_layers);
  if (dtype != DType::kFloat32 && dtype != DType::kBFloat16) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights cannot be held in ", Name(dtype), "; use float32 or bfloat16"));
  }
  if (device.type != DeviceType::kCpu)
    return absl::UnimplementedError("weights can only be loaded to the CPU so far");
  RETURN_IF_ERROR(CheckTpDividesHeads(config.num_heads, topology.config.tp_size));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(model_dir));
  RETURN_IF_ERROR(CheckHasHead(checkpoint, model_dir));
  return StageLoader(checkpoint, config, topology, stage, dtype, device).Load(progress);
}

}  // namespace polystrate
