// LibraryGemm: oneDNN's matrix product for many rows, with its primitives cached.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/core/tensor.h"
#include "kernels/ops.h"

namespace polystrate::cpu {

class LibraryGemm {
 public:
  explicit LibraryGemm(int num_threads);
  ~LibraryGemm();
  LibraryGemm(const LibraryGemm&) = delete;
  LibraryGemm& operator=(const LibraryGemm&) = delete;

  // The contract of Gemm (ops.h). False, with nothing done, where the library has no fast
  // implementation for this processor and these shapes.
  // Allocates only when a shape is new; the most recently used shapes are kept.
  bool Run(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out,
           const GemmOptions& options);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace polystrate::cpu
