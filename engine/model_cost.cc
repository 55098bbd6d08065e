#include "engine/model_cost.h"

namespace polystrate {

StageCosts StageCostsOf(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t query = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t reuser = 2 * query * hidden + 2 * config.intermediate_size * hidden;
  const int64_t projection =
      config.use_key_value_mlp ? config.kv_intermediate_size * (hidden + kv) : kv * hidden;
  const int64_t owner = reuser + 2 * projection + 2 * kv;

  StageCosts costs;
  for (int l = 0; l < config.num_layers; ++l) {
    costs.layer.push_back(static_cast<double>(config.sharing.owns(l) ? owner : reuser));
  }
  costs.first_stage = static_cast<double>(hidden);
  costs.last_stage = static_cast<double>(2 * hidden + config.vocab_size * hidden);
  return costs;
}

}  // namespace polystrate
