#include "engine/conversion_plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "engine/architecture.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

enum Part { kQuery, kKey, kValue };
constexpr int64_t kFusedParts = 3;

// What transformers before version 4.31 saved besides weights.
bool IsBuffer(absl::string_view name) {
  return absl::EndsWith(name, ".attention.bias") || absl::EndsWith(name, ".masked_bias") ||
         absl::EndsWith(name, ".rotary_emb.inv_freq");
}

// "gpt_neox.layers.3.attention.key.weight" is layer 3, stem "attention.key", suffix ".weight".
struct LayerTensor {
  int layer = 0;
  absl::string_view stem;
  absl::string_view suffix;
};

std::optional<LayerTensor> ParseLayerTensor(absl::string_view layers, absl::string_view name) {
  if (!absl::ConsumePrefix(&name, layers)) return std::nullopt;
  const size_t dot = name.find('.');
  LayerTensor tensor;
  const absl::string_view number = name.substr(0, dot);
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(number, &tensor.layer))
    return std::nullopt;
  if (number != absl::StrCat(tensor.layer)) return std::nullopt;  // "03" is not layer 3's
  name.remove_prefix(dot + 1);
  for (const absl::string_view suffix : {".weight", ".bias"}) {
    if (!absl::EndsWith(name, suffix)) continue;
    tensor.stem = absl::StripSuffix(name, suffix);
    tensor.suffix = suffix;
    return tensor;
  }
  return std::nullopt;
}

class Planner {
 public:
  Planner(const ModelConfig& config, const Checkpoint& checkpoint,
          const ConversionOptions& options);

  absl::StatusOr<ConversionPlan> Plan();

 private:
  absl::Status CheckOptions() const;
  absl::Status PlanTensor(const std::string& name, const Checkpoint::Entry& stored);
  absl::Status PlanFused(const LayerTensor& tensor, const Checkpoint::Entry& stored);
  absl::Status PlanPooled(const LayerTensor& tensor, Part part, const Checkpoint::Entry& stored);
  absl::Status PlanGrownRows(const std::string& name, const Checkpoint::Entry& stored);
  absl::Status PlanGrownColumns(const std::string& name, const Checkpoint::Entry& stored);
  absl::StatusOr<std::vector<StoredOrigin>> HeadsOf(int layer, Part part, absl::string_view suffix,
                                                    int first, int count) const;

  // That a layer's query, key and value are fused, as the loader decides it (engine/weights.cc).
  bool Fused(int layer) const;
  // Of query, key and value, in a form that the loader does not read.
  bool IsRelic(const LayerTensor& tensor) const;
  absl::string_view Stem(Part part) const;
  // A projection's rows by hidden_size, or a bias's rows.
  std::vector<int64_t> ShapeOf(int64_t rows, absl::string_view suffix) const;
  Block HeadRows(int head, absl::string_view suffix) const;

  const ModelConfig& config_;
  const Checkpoint& checkpoint_;
  const ConversionOptions& options_;
  const TensorNames& names_;
  const TensorReader reader_;
  const int64_t growth_;
  ConversionPlan plan_;
};

Planner::Planner(const ModelConfig& config, const Checkpoint& checkpoint,
                 const ConversionOptions& options)
    : config_(config),
      checkpoint_(checkpoint),
      options_(options),
      names_(config.architecture->tensors),
      reader_(checkpoint),
      growth_(options.grow_mlp ? MlpGrowth(config, options.sharing, options.num_kv_heads) : 0) {}

absl::StatusOr<ConversionPlan> Planner::Plan() {
  RETURN_IF_ERROR(CheckOptions());
  plan_.pooling = options_.pooling;
  plan_.intermediate_size = config_.intermediate_size + growth_;
  // In the order of the files, so that they are read from front to back.
  std::vector<std::pair<const std::string*, Checkpoint::Entry>> stored;
  for (const auto& [name, entry] : checkpoint_.entries()) stored.emplace_back(&name, entry);
  std::sort(stored.begin(), stored.end(), [](const auto& a, const auto& b) {
    const int files = a.second.file->path().compare(b.second.file->path());
    return files != 0 ? files < 0 : a.second.info->begin < b.second.info->begin;
  });
  for (const auto& [name, entry] : stored) RETURN_IF_ERROR(PlanTensor(*name, entry));
  return std::move(plan_);
}

absl::Status Planner::CheckOptions() const {
  if (config_.sharing.shares()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the model shares KV already: ", config_.sharing.owners().size(), " of its ",
                     config_.num_layers,
                     " layers own; expected a model in which every layer owns its KV cache"));
  }
  if (config_.use_key_value_mlp) {
    return absl::InvalidArgumentError(
        "the model's K and V projections are MLPs (use_key_value_mlp), of which there is no mean; "
        "expected linear ones");
  }
  RETURN_IF_ERROR(options_.sharing.Validate());
  CHECK_EQ(options_.sharing.num_layers(), config_.num_layers);
  if (options_.num_kv_heads < 1 || config_.num_kv_heads % options_.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot pool ", config_.num_kv_heads, " KV heads into ", options_.num_kv_heads,
                     "; expected a divisor of ", config_.num_kv_heads,
                     ", so that each new head stands for equally many adjacent ones"));
  }
  if (growth_ > config_.intermediate_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("growing the MLPs would add ", growth_, " neurons to ",
                     config_.intermediate_size, "; expected at most as many as there are to copy"));
  }
  return absl::OkStatus();
}

absl::Status Planner::PlanTensor(const std::string& name, const Checkpoint::Entry& stored) {
  if (IsBuffer(name)) return absl::OkStatus();
  const std::optional<LayerTensor> tensor = ParseLayerTensor(names_.layers, name);
  const bool known = tensor.has_value() && tensor->layer < config_.num_layers;
  if (known) {
    const absl::string_view stem = tensor->stem;
    const bool of_kv = stem == names_.key_norm || stem == names_.kv_norm;
    if (of_kv && !options_.sharing.owns(tensor->layer)) return absl::OkStatus();
    if (IsRelic(*tensor)) return absl::OkStatus();
    if (stem == names_.fused_qkv) return PlanFused(*tensor, stored);
    if (stem == names_.key) return PlanPooled(*tensor, kKey, stored);
    if (stem == names_.value) return PlanPooled(*tensor, kValue, stored);
    if (growth_ > 0 && (stem == names_.up || stem == names_.gate)) {
      return PlanGrownRows(name, stored);
    }
    if (growth_ > 0 && stem == names_.down && tensor->suffix == ".weight") {
      return PlanGrownColumns(name, stored);
    }
  }
  plan_.tensors.push_back({name, stored.info->dtype, stored.info->shape, stored, {}});
  return absl::OkStatus();
}

// The query heads, apart; and, if the layer owns, K and V.
absl::Status Planner::PlanFused(const LayerTensor& tensor, const Checkpoint::Entry& stored) {
  const absl::string_view suffix = tensor.suffix;
  OutputTensor query = {absl::StrCat(names_.InLayer(tensor.layer, names_.query), suffix),
                        stored.info->dtype,
                        ShapeOf(int64_t{config_.num_heads} * config_.head_dim, suffix),
                        stored,
                        {}};
  for (int head = 0; head < config_.num_heads; ++head) {
    ASSIGN_OR_RETURN(auto heads, HeadsOf(tensor.layer, kQuery, suffix, head, 1));
    query.blocks.push_back({HeadRows(head, suffix), {std::move(heads)}});
  }
  plan_.tensors.push_back(std::move(query));
  RETURN_IF_ERROR(PlanPooled(tensor, kKey, stored));
  return PlanPooled(tensor, kValue, stored);
}

// K or V of an owner, from all layers that read it; of a reuser, nothing.
absl::Status Planner::PlanPooled(const LayerTensor& tensor, Part part,
                                 const Checkpoint::Entry& stored) {
  if (!options_.sharing.owns(tensor.layer)) return absl::OkStatus();
  const absl::string_view suffix = tensor.suffix;
  OutputTensor output = {absl::StrCat(names_.InLayer(tensor.layer, Stem(part)), suffix),
                         stored.info->dtype,
                         ShapeOf(int64_t{options_.num_kv_heads} * config_.head_dim, suffix),
                         stored,
                         {}};
  const int heads_of_one = config_.num_kv_heads / options_.num_kv_heads;
  for (int head = 0; head < options_.num_kv_heads; ++head) {
    OutputBlock block = {HeadRows(head, suffix), {}};
    for (int layer = tensor.layer; layer < config_.num_layers; ++layer) {
      if (options_.sharing.kv_source[layer] != tensor.layer) continue;
      ASSIGN_OR_RETURN(auto heads, HeadsOf(layer, part, suffix, head * heads_of_one, heads_of_one));
      block.sources.push_back(std::move(heads));
    }
    output.blocks.push_back(std::move(block));
  }
  plan_.tensors.push_back(std::move(output));
  return absl::OkStatus();
}

// Where heads [first, first + count) of one part lie, be it fused with the others or apart.
absl::StatusOr<std::vector<StoredOrigin>> Planner::HeadsOf(int layer, Part part,
                                                           absl::string_view suffix, int first,
                                                           int count) const {
  std::string name = absl::StrCat(names_.InLayer(layer, Stem(part)), suffix);
  const bool fused = Fused(layer);
  if (fused) name = absl::StrCat(names_.InLayer(layer, names_.fused_qkv), suffix);
  // A fused tensor has a key and a value for each query head.
  const int64_t heads = fused            ? kFusedParts * config_.num_heads
                        : part == kQuery ? config_.num_heads
                                         : config_.num_kv_heads;
  RETURN_IF_ERROR(reader_.Check(name, ShapeOf(heads * config_.head_dim, suffix)));
  std::vector<StoredOrigin> origins;
  for (int head = first; head < first + count; ++head) {
    const int64_t stored_head = fused ? kFusedParts * head + part : head;
    origins.push_back({name, stored_head * config_.head_dim, 0});
  }
  return origins;
}

absl::Status Planner::PlanGrownRows(const std::string& name, const Checkpoint::Entry& stored) {
  const absl::string_view suffix = absl::EndsWith(name, ".bias") ? ".bias" : ".weight";
  const int64_t rows = config_.intermediate_size;
  RETURN_IF_ERROR(reader_.Check(name, ShapeOf(rows, suffix)));
  const int64_t columns = suffix == ".bias" ? 1 : config_.hidden_size;
  plan_.tensors.push_back({name,
                           stored.info->dtype,
                           ShapeOf(rows + growth_, suffix),
                           stored,
                           {{{0, rows, 0, columns}, {{{name, 0, 0}}}},
                            {{rows, growth_, 0, columns}, {{{name, 0, 0}}}}}});
  return absl::OkStatus();
}

absl::Status Planner::PlanGrownColumns(const std::string& name, const Checkpoint::Entry& stored) {
  const int64_t rows = config_.hidden_size;
  const int64_t columns = config_.intermediate_size;
  RETURN_IF_ERROR(reader_.Check(name, {rows, columns}));
  plan_.tensors.push_back({name,
                           stored.info->dtype,
                           {rows, columns + growth_},
                           stored,
                           {{{0, rows, 0, columns}, {{{name, 0, 0}}}},
                            {{0, rows, columns, growth_}, {{{name, 0, 0}}}}}});
  return absl::OkStatus();
}

bool Planner::Fused(int layer) const {
  const auto has = [&](absl::string_view stem) {
    return checkpoint_.Find(names_.InLayer(layer, stem) + ".weight") != nullptr;
  };
  return !names_.fused_qkv.empty() && !has(names_.query) && has(names_.fused_qkv);
}

bool Planner::IsRelic(const LayerTensor& tensor) const {
  const absl::string_view stem = tensor.stem;
  const bool apart = stem == names_.query || stem == names_.key || stem == names_.value;
  if (!apart && stem != names_.fused_qkv) return false;
  return apart == Fused(tensor.layer) || (tensor.suffix == ".bias" && !config_.qkv_bias);
}

absl::string_view Planner::Stem(Part part) const {
  return part == kQuery ? names_.query : part == kKey ? names_.key : names_.value;
}

std::vector<int64_t> Planner::ShapeOf(int64_t rows, absl::string_view suffix) const {
  if (suffix == ".bias") return {rows};
  return {rows, config_.hidden_size};
}

Block Planner::HeadRows(int head, absl::string_view suffix) const {
  return {int64_t{head} * config_.head_dim, config_.head_dim, 0,
          suffix == ".bias" ? 1 : config_.hidden_size};
}

}  // namespace

int64_t OutputTensor::num_bytes() const {
  if (blocks.empty()) return stored.info->end - stored.info->begin;
  int64_t bytes = dtype == "F32" ? 4 : 2;
  for (const int64_t dim : shape) bytes *= dim;
  return bytes;
}

int64_t MlpGrowth(const ModelConfig& config, const KvSharing& sharing, int num_kv_heads) {
  const auto owners = static_cast<int64_t>(sharing.owners().size());
  const int64_t heads_lost =
      int64_t{config.num_kv_heads} * config.num_layers - num_kv_heads * owners;
  const int64_t of_a_row = config.hidden_size + (config.qkv_bias ? 1 : 0);
  const int64_t lost = heads_lost * 2 * config.head_dim * of_a_row;
  const int64_t of_a_layer = lost / config.num_layers;
  const double rows = static_cast<double>(of_a_layer) / static_cast<double>(config.hidden_size);
  const int matrices = config.gated_mlp ? 3 : 2;
  return static_cast<int64_t>(std::nearbyint(rows)) / matrices;
}

absl::StatusOr<ConversionPlan> PlanConversion(const ModelConfig& config,
                                              const Checkpoint& checkpoint,
                                              const ConversionOptions& options) {
  return Planner(config, checkpoint, options).Plan();
}

}  // namespace polystrate
