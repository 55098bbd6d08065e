#include "engine/paper_variants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "engine/architecture.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

struct Row {
  const char* name;
  int num_kv_layers;
  int num_kv_heads;
  int64_t intermediate_size;
};

constexpr Row kRows[] = {
    {"MHA-144", 12, 12, 3072}, {"GQA-48", 12, 4, 3584}, {"MLKV-48", 4, 12, 3584},
    {"MQA-12", 12, 1, 3777},   {"MLKV-12", 4, 3, 3777}, {"MLKV-6", 6, 1, 3809},
    {"MLKV-4", 4, 1, 3819},    {"MLKV-2", 2, 1, 3830},  {"MLKV-1", 1, 1, 3835},
};

ModelConfig Pythia160m(const Row& row) {
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

}  // namespace

std::vector<PaperVariant> MlkvVariants() {
  std::vector<PaperVariant> variants;
  for (const Row& row : kRows) variants.push_back({row.name, Pythia160m(row)});
  return variants;
}

absl::StatusOr<std::vector<PaperVariant>> SelectVariants(const std::string& names) {
  const std::vector<PaperVariant> all = MlkvVariants();
  if (names.empty()) return all;
  std::vector<PaperVariant> selected;
  const auto named = [](const std::vector<PaperVariant>& variants, const std::string& name) {
    return std::find_if(variants.begin(), variants.end(),
                        [&name](const PaperVariant& v) { return v.name == name; });
  };
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(names, ','))) {
    const auto found = named(all, name);
    if (found == all.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--variants: there is no \"", name, "\"; the variants are ",
                       absl::StrJoin(all, ",", [](std::string* out, const PaperVariant& v) {
                         absl::StrAppend(out, v.name);
                       })));
    }
    if (named(selected, name) != selected.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--variants names ", name, " twice"));
    }
    selected.push_back(*found);
  }
  return selected;
}

}  // namespace polystrate
