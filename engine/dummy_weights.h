// Weights of no meaning, for measuring speed and memory without a checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/tensor_reader.h"
#include "kernels/core/tensor.h"

namespace polystrate {

// Fills the first num_rows rows and num_columns columns of `dst`, a host tensor of float32 or
// bfloat16, with `block` of the tensor `name` of shape `stored_shape`, one or two dimensions, as
// TensorReader::Read would. An element depends on its tensor's name and its place in it alone, so
// every cut of a model has the same weights, run after run. Matrices and biases are uniform in
// +-0.035 (0.02 standard deviation, what models are initialised with), vectors named *.weight, the
// norms', around 1.
void FillDummy(const std::string& name, const std::vector<int64_t>& stored_shape,
               const Block& block, const Tensor& dst);

}  // namespace polystrate
