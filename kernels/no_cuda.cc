// What stands in for the CUDA twin in a program that is built without CUDA: there are no GPUs, so
// nothing else here is ever called.
#include "kernels/core/check.h"
#include "kernels/core/step_graph.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/events.h"
#include "kernels/cuda/graph_recorder.h"
#include "kernels/cuda/library_gemm.h"
#include "kernels/cuda/limits.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/upload_ring.h"

namespace polystrate {
namespace {

[[noreturn]] void WithoutCuda() { CheckFailed(__FILE__, __LINE__, "built without CUDA"); }

absl::Status NoGpu() {
  return absl::FailedPreconditionError("this polystrate is built without CUDA");
}

}  // namespace

CudaContext::~CudaContext() = default;
absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Create(int) { return NoGpu(); }
void CudaContext::Synchronize() const { WithoutCuda(); }
void CudaContext::set_warpgroups(bool) { WithoutCuda(); }
const void* CudaContext::Upload(const void*, int64_t) { WithoutCuda(); }
void CudaContext::UploadTo(void*, const void*, int64_t) { WithoutCuda(); }
void* CudaContext::Scratch(int64_t) { WithoutCuda(); }

GraphRecorder::~GraphRecorder() = default;
void GraphRecorder::OnHost(std::function<void()>) { WithoutCuda(); }
StepGraph::StepGraph(const Stream&, const std::function<void()>&) { WithoutCuda(); }
StepGraph::~StepGraph() = default;
void StepGraph::Replay(const Stream&) const { WithoutCuda(); }

namespace cuda {

struct LibraryGemm::State {};
LibraryGemm::~LibraryGemm() = default;
UploadRing::~UploadRing() = default;
int NumDevices() { return 0; }
absl::StatusOr<void*> Allocate(int, int64_t) { return NoGpu(); }
void Free(void*) { WithoutCuda(); }
absl::StatusOr<void*> AllocatePinned(int64_t) { return NoGpu(); }
void FreePinned(void*) { WithoutCuda(); }
int64_t FreeMemory(int) { WithoutCuda(); }
int64_t TotalMemory(int) { WithoutCuda(); }
void CopyAsync(const void*, void*, int64_t, CUstream_st*) { WithoutCuda(); }
void Copy(int, const void*, void*, int64_t) { WithoutCuda(); }
CUevent_st* CreateEvent(int) { WithoutCuda(); }
void DestroyEvent(CUevent_st*) { WithoutCuda(); }
void RecordEvent(CUevent_st*, CUstream_st*) { WithoutCuda(); }
bool EventPassed(CUevent_st*) { WithoutCuda(); }
void WaitForEvent(CUstream_st*, CUevent_st*) { WithoutCuda(); }

void ReadSweep(const CudaContext&, const void*, int64_t, uint32_t*) { WithoutCuda(); }
void CopySweep(const CudaContext&, const void*, void*, int64_t) { WithoutCuda(); }
std::vector<double> TimeEach(const CudaContext&, int, const std::function<void()>&,
                             const std::function<void()>&) {
  WithoutCuda();
}

void EmbeddingLookup(CudaContext&, const Tensor&, const Tensor&, int32_t, const Tensor&,
                     const Tensor&) {
  WithoutCuda();
}
void LayerNorm(CudaContext&, const Tensor&, const Tensor&, const Tensor&, float, const Tensor&,
               const Tensor&) {
  WithoutCuda();
}
void RmsNorm(CudaContext&, const Tensor&, const Tensor&, float, const Tensor&, const Tensor&) {
  WithoutCuda();
}
void HeadRmsNorm(CudaContext&, const Tensor&, float, const Tensor&) { WithoutCuda(); }
void GatedActivation(CudaContext&, const Tensor&, Activation, const Tensor&) { WithoutCuda(); }
void AddInPlace(CudaContext&, const Tensor&, const Tensor&) { WithoutCuda(); }
void Gemm(CudaContext&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
          const GemmOptions&) {
  WithoutCuda();
}
bool NormGemm(const CudaContext&, const Tensor&, const NormProduct&) { WithoutCuda(); }
bool GatedNormGemm(const CudaContext&, const Tensor&, const NormProduct&, Activation,
                   const Tensor&) {
  WithoutCuda();
}
bool NormGemms(const CudaContext&, const Tensor&, const NormProduct&, const NormProduct&) {
  WithoutCuda();
}
void ApplyRope(CudaContext&, const RopeTable&, const Tensor&, int, const Tensor&) { WithoutCuda(); }
void RotateAndStoreKv(CudaContext&, const RopeTable&, const Tensor&, int, bool, const Tensor&,
                      const Tensor&, const Tensor&, const Tensor&, const KvSlot&) {
  WithoutCuda();
}
void PagedAttention(CudaContext&, const Tensor&, const KvSlot&, const AttentionBatch&,
                    const AttentionOptions&, const Tensor&) {
  WithoutCuda();
}
void SetBlocks(CudaContext&, absl::Span<const NewBlock>, const Tensor&) { WithoutCuda(); }
void GatherTables(CudaContext&, const Tensor&, const Tensor&, const Tensor&) { WithoutCuda(); }
void ConcatColumns(CudaContext&, const Tensor&, const Tensor&) { WithoutCuda(); }
void Sample(CudaContext&, const Tensor&, int64_t, absl::Span<const SampleRow>,
            absl::Span<SampleResult>, const SampleLists&, const Tensor&) {
  WithoutCuda();
}
void Score(CudaContext&, const Tensor&, int64_t, absl::Span<const ScoreRow>,
           absl::Span<ScoreResult>) {
  WithoutCuda();
}

}  // namespace cuda
}  // namespace polystrate
