#include "engine/paper_variants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/architecture.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

struct MlkvRow {
  const char* name;
  int num_kv_layers;
  int num_kv_heads;
  int64_t intermediate_size;
};

constexpr MlkvRow kMlkvRows[] = {
    {"MHA-144", 12, 12, 3072}, {"GQA-48", 12, 4, 3584}, {"MLKV-48", 4, 12, 3584},
    {"MQA-12", 12, 1, 3777},   {"MLKV-12", 4, 3, 3777}, {"MLKV-6", 6, 1, 3809},
    {"MLKV-4", 4, 1, 3819},    {"MLKV-2", 2, 1, 3830},  {"MLKV-1", 1, 1, 3835},
};

ModelConfig Pythia160m(const MlkvRow& row) {
  ModelConfig config;
  config.architecture = &GptNeoxArchitecture();
  config.vocab_size = 50304;
  config.hidden_size = 768;
  config.num_layers = 12;
  config.num_heads = 12;
  config.head_dim = 64;
  config.num_kv_heads = row.num_kv_heads;
  config.intermediate_size = row.intermediate_size;
  config.max_position_embeddings = 2048;
  config.rotary_dim = 16;
  config.eos_token_ids = {0};
  const auto sharing = KvSharing::Mlkv(config.num_layers, row.num_kv_layers);
  CHECK(sharing.ok());
  config.sharing = *sharing;
  return config;
}

struct ClaRow {
  const char* name;
  int64_t hidden_size;
  int64_t intermediate_size;
  int num_layers;
  int head_dim;
  int factor;  // layers of a group; 1 shares nothing
};

constexpr ClaRow kClaRows[] = {
    {"1B-H128-MQA", 2048, 5472, 20, 128, 1},      {"1B-H128-MQA-CLA2", 2048, 5472, 20, 128, 2},
    {"1B-H128-MQA-CLA3", 2048, 5472, 20, 128, 3}, {"1B-H128-MQA-CLA4", 2048, 5472, 20, 128, 4},
    {"1B-H64-MQA", 2048, 5472, 20, 64, 1},        {"3B-H128-MQA", 3072, 8192, 32, 128, 1},
    {"3B-H128-MQA-CLA2", 3072, 8192, 32, 128, 2}, {"3B-H64-MQA", 3072, 8192, 32, 64, 1},
    {"3B-H64-MQA-CLA2", 3072, 8192, 32, 64, 2},
};

ModelConfig ClaModel(const ClaRow& row) {
  ModelConfig config;
  config.architecture = &LlamaArchitecture();
  config.vocab_size = 50304;
  config.hidden_size = row.hidden_size;
  config.num_layers = row.num_layers;
  config.num_heads = static_cast<int>(row.hidden_size / row.head_dim);
  config.num_kv_heads = 1;
  config.head_dim = row.head_dim;
  config.intermediate_size = row.intermediate_size;
  config.max_position_embeddings = 2048;
  config.norm_bias = false;
  config.rotary_dim = row.head_dim;
  config.activation = Activation::kSilu;
  config.gated_mlp = true;
  config.use_parallel_residual = false;
  config.qkv_bias = config.output_bias = config.mlp_bias = false;
  const auto sharing = KvSharing::Cla(row.num_layers, row.factor);
  CHECK(sharing.ok());
  config.sharing = *sharing;
  config.separate_kv_norm = config.sharing.shares();
  return config;
}

// Null when no variant has this name.
const PaperVariant* Find(const std::vector<PaperVariant>& variants, const std::string& name) {
  const auto found =
      std::find_if(variants.begin(), variants.end(),
                   [&name](const PaperVariant& variant) { return variant.name == name; });
  return found == variants.end() ? nullptr : &*found;
}

}  // namespace

std::vector<PaperVariant> MlkvVariants() {
  std::vector<PaperVariant> variants;
  for (const MlkvRow& row : kMlkvRows) variants.push_back({row.name, Pythia160m(row)});
  return variants;
}

std::vector<PaperVariant> ClaVariants() {
  std::vector<PaperVariant> variants;
  for (const ClaRow& row : kClaRows) variants.push_back({row.name, ClaModel(row)});
  return variants;
}

absl::StatusOr<std::vector<PaperVariant>> SelectVariants(const std::string& names) {
  const std::vector<PaperVariant> mlkv = MlkvVariants(), cla = ClaVariants();
  if (names.empty()) return mlkv;
  std::vector<PaperVariant> all = mlkv, selected;
  all.insert(all.end(), cla.begin(), cla.end());
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(names, ','))) {
    if (name == "mlkv") {
      selected.insert(selected.end(), mlkv.begin(), mlkv.end());
    } else if (name == "cla") {
      selected.insert(selected.end(), cla.begin(), cla.end());
    } else if (const PaperVariant* variant = Find(all, name)) {
      selected.push_back(*variant);
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          "--variants: there is no \"", name, "\"; the variants are ",
          absl::StrJoin(
              all, ",",
              [](std::string* out, const PaperVariant& v) { absl::StrAppend(out, v.name); }),
          ", and mlkv and cla for all of a paper"));
    }
  }
  for (const PaperVariant& variant : selected) {
    if (Find(selected, variant.name) != &variant) {
      return absl::InvalidArgumentError(absl::StrCat("--variants names ", variant.name, " twice"));
    }
  }
  return selected;
}

}  // namespace polystrate
