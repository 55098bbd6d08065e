// A model's facts from its heads and map alone: what memory and tables of papers depend on.
#pragma once

#include "engine/model_config.h"

namespace polystrate {

// Pythia's vocabulary, and an MLP four times as wide as the hidden state, which is all heads.
inline ModelConfig ModelShape(int num_heads, int num_kv_heads, int head_dim,
                              const KvSharing& sharing) {
  ModelConfig config;
  config.vocab_size = 50304;
  config.hidden_size = num_heads * head_dim;
  config.num_layers = sharing.num_layers();
  config.num_heads = num_heads;
  config.num_kv_heads = num_kv_heads;
  config.head_dim = head_dim;
  config.intermediate_size = 4 * config.hidden_size;
  config.sharing = sharing;
  return config;
}

}  // namespace polystrate
