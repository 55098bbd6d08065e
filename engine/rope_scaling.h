// RopeScaling: how a model's rotary frequencies differ from base^(-2j / rotary_dim), so that it
// reads contexts longer than those it was first trained on. Computed as transformers computes them.
#pragma once

#include <cstdint>
#include <vector>

namespace polystrate {

struct RopeScaling {
  enum class Type : uint8_t {
    kNone,    // "default"; also "dynamic", see rope_keys.h
    kLinear,  // every frequency divided by factor
    kYarn,    // Peng et al. 2023, arXiv:2309.00071
    kLlama3,  // Llama 3.1's: low frequencies divided, high ones kept, those between interpolated
  };
  Type type = Type::kNone;
  double factor = 1.0;
  double original_max_position_embeddings = 0;       // yarn, llama3: of the first training
  double beta_fast = 32, beta_slow = 1;              // yarn: rotations that bound the ramp
  bool truncate = true;                              // yarn: the ramp's bounds are whole dimensions
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  double attention_factor = 1.0;                     // of cos and sin; yarn's is not 1
};

// rotary_dim / 2 frequencies, in float32 where transformers has float32.
std::vector<float> ScaledFrequencies(double base, int rotary_dim, const RopeScaling& scaling);

}  // namespace polystrate
