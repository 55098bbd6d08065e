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

void EmbeddingLookup(CudaContext&, const Tensor&, const Tensor&, int32_t, const Tensor&) {
  Unwritten("EmbeddingLookup");
}
void LayerNorm(CudaContext&, const Tensor&, const Tensor&, const Tensor&, float, const Tensor&,
               const Tensor&) {
  Unwritten("LayerNorm");
}
void RmsNorm(CudaContext&, const Tensor&, const Tensor&, float, const Tensor&, const Tensor&) {
  Unwritten("RmsNorm");
}
void HeadRmsNorm(CudaContext&, const Tensor&, float, const Tensor&) { Unwritten("HeadRmsNorm"); }
void GatedActivation(CudaContext&, const Tensor&, Activation, const Tensor&) {
  Unwritten("GatedActivation");
}
void AddInPlace(CudaContext&, const Tensor&, const Tensor&) { Unwritten("AddInPlace"); }
void ApplyRope(CudaContext&, const RopeTable&, const Tensor&, int, const Tensor&) {
  Unwritten("ApplyRope");
}
void RotateAndStoreKv(CudaContext&, const RopeTable&, const Tensor&, int, bool, const Tensor&,
                      const Tensor&, const Tensor&, const Tensor&, const KvSlot&) {
  Unwritten("RotateAndStoreKv");
}
void DecodeAttention(CudaContext&, const AttentionParams&) { Unwritten("DecodeAttention"); }
void ConcatColumns(CudaContext&, const Tensor&, const Tensor&) { Unwritten("ConcatColumns"); }
void Sample(CudaContext&, const Tensor&, int64_t, absl::Span<const SampleRow>,
            absl::Span<SampleResult>, const SampleLists&) {
  Unwritten("Sample");
}
void Score(CudaContext&, const Tensor&, int64_t, absl::Span<const ScoreRow>,
           absl::Span<ScoreResult>) {
  Unwritten("Score");
}

}  // namespace polystrate::cuda
