#include "engine/model_cost.h"

namespace polystrate {

std::vector<LayerCost> LayerCostsOf(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t query = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t mlp = (config.gated_mlp ? 3 : 2) * config.intermediate_size * hidden;
  const int64_t reuser = 2 * query * hidden + mlp;
  const int64_t projections =
      2 * (config.use_key_value_mlp ? config.kv_intermediate_size * (hidden + kv) : kv * hidden);
  const auto owners = static_cast<int64_t>(config.sharing.owners().size());
  const int64_t last_owner = config.sharing.owners().back();
  const int64_t matrices = config.num_layers * reuser + owners * projections;

  std::vector<LayerCost> costs;
  for (int l = 0; l < config.num_layers; ++l) {
    const bool owns = config.sharing.owns(l);
    const int64_t layer = reuser + (owns ? projections : 0);
    LayerCost cost;
    cost.decode = layer + (owns ? 2 * kv : 0);
    cost.prefill = l < last_owner ? layer : (l == last_owner ? projections : 0);
    cost.capacity = owns ? matrices / owners : 0;
    costs.push_back(cost);
  }
  return costs;
}

StageCosts StageCostsOf(const ModelConfig& config) {
  StageCosts costs;
  for (const LayerCost& cost : LayerCostsOf(config)) {
    costs.layer.push_back(static_cast<double>(cost.total()));
  }
  costs.first_stage = static_cast<double>(config.hidden_size);
  costs.last_stage = static_cast<double>((2 + config.vocab_size) * config.hidden_size);
  return costs;
}

}  // namespace polystrate
