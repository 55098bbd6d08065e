// Tensors of any shape from a counter-based generator, the same to the last bit as those of
// tools/counter_weights.py, which has the definition: golden tests store only logits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace polystrate {

// An element depends on the tensor's name, its flat row-major index and the seed alone. `gain`
// scales matrices; norm weights are around 1, biases small, the embedding within [-1, 1].
std::vector<float> CounterWeights(const std::string& name, const std::vector<int64_t>& shape,
                                  uint64_t model_seed, double gain = 1.0);

}  // namespace polystrate
