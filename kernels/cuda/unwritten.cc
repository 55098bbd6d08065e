// Twins that are not written yet; each leaves this file when it is.
#include "kernels/core/check.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/ops.h"

namespace polystrate::cuda {
namespace {

[[noreturn]] void Unwritten(const char* op) {
  CheckFailed(__FILE__, __LINE__, std::string(op) + " is not written for CUDA yet");
}

}  // namespace

void DecodeAttention(CudaContext&, const AttentionParams&) { Unwritten("DecodeAttention"); }

}  // namespace polystrate::cuda
