// LibraryGemm: cuBLASLt, and what it was found to do best for each shape.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/core/tensor.h"

namespace polystrate {
class CudaContext;
}  // namespace polystrate

namespace polystrate::cuda {

class LibraryGemm {
 public:
  // For streams of `device`, the current one. Takes its workspace here, 32 MiB, as NVIDIA advises
  // for Hopper, and none later. RESOURCE_EXHAUSTED when it cannot be had.
  static absl::StatusOr<std::unique_ptr<LibraryGemm>> Create(Device device);
  ~LibraryGemm();
  LibraryGemm(const LibraryGemm&) = delete;
  LibraryGemm& operator=(const LibraryGemm&) = delete;

  enum class Done : uint8_t {
    kNothing,         // cuBLASLt has no algorithm for these shapes and addresses
    kProduct,         // out = x weight^T, or out += that
    kProductAndBias,  // and the bias, which may be empty
  };
  // Tensors as for Gemm (ops.h), no dimension 0. Float32 stays float32 (no TF32), split sums are
  // merged in float32 and in a fixed order. The bias is added where out is float32: cuBLASLt wants
  // it in out's type (cublasLt.h, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE), and rounding it would
  // change the model. Activations are not for this class: cuBLASLt has ReLU and the tanh GELU, no
  // model that is known here has them with a float32 out. The library is asked when a shape, type
  // or alignment is new, which takes tens of microseconds of the host and must not happen while a
  // graph is recorded; the most recently used 1024 answers are kept.
  Done Run(const CudaContext& context, const Tensor& x, const Tensor& weight, const Tensor& bias,
           const Tensor& out, bool accumulate);

 private:
  struct State;
  explicit LibraryGemm(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polystrate::cuda
