#include "engine/public_shapes.h"

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
  bool llama;
  int64_t vocab_size;
  int64_t hidden_size;
  int num_layers;
  int num_heads;
  int num_kv_heads;
  int64_t intermediate_size;
  int64_t max_position_embeddings;
  double rope_base;
};

constexpr Row kRows[] = {
    {"pythia-160m", false, 50304, 768, 12, 12, 12, 3072, 2048, 10000},
    {"pythia-6.9b", false, 50432, 4096, 32, 32, 32, 16384, 2048, 10000},
    {"tinyllama-1.1b", true, 32000, 2048, 22, 32, 4, 5632, 2048, 10000},
    {"llama-3.1-8b", true, 128256, 4096, 32, 32, 8, 14336, 131072, 500000},
};

ModelConfig ConfigOf(const Row& row) {
  ModelConfig config;
  config.architecture = row.llama ? &LlamaArchitecture() : &GptNeoxArchitecture();
  config.vocab_size = row.vocab_size;
  config.hidden_size = row.hidden_size;
  config.num_layers = row.num_layers;
  config.num_heads = row.num_heads;
  config.num_kv_heads = row.num_kv_heads;
  config.head_dim = static_cast<int>(row.hidden_size / row.num_heads);
  config.intermediate_size = row.intermediate_size;
  config.max_position_embeddings = row.max_position_embeddings;
  config.rope_base = row.rope_base;
  config.rotary_dim = row.llama ? config.head_dim : config.head_dim / 4;
  if (row.llama) {
    config.norm = NormKind::kRmsNorm;
    config.norm_bias = false;
    config.activation = Activation::kSilu;
    config.gated_mlp = true;
    config.use_parallel_residual = false;
    config.qkv_bias = config.output_bias = config.mlp_bias = false;
  }
  const auto sharing = KvSharing::Mlkv(row.num_layers, row.num_layers);
  CHECK(sharing.ok());
  config.sharing = *sharing;
  return config;
}

}  // namespace

std::vector<PublicShape> PublicShapes() {
  std::vector<PublicShape> shapes;
  for (const Row& row : kRows) shapes.push_back({row.name, ConfigOf(row)});
  return shapes;
}

absl::StatusOr<std::vector<PublicShape>> SelectShapes(const std::string& names) {
  const std::vector<PublicShape> all = PublicShapes();
  if (names.empty()) return all;
  std::vector<PublicShape> selected;
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(names, ','))) {
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const PublicShape& shape) { return shape.name == name; });
    if (found == all.end()) {
      const auto append = [](std::string* out, const PublicShape& s) {
        absl::StrAppend(out, s.name);
      };
      return absl::InvalidArgumentError(absl::StrCat(
          "--shapes: there is no \"", name, "\"; it has ", absl::StrJoin(all, ", ", append)));
    }
    selected.push_back(*found);
  }
  return selected;
}

}  // namespace polystrate
