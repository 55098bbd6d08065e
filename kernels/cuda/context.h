// CudaContext: what a CUDA stream owns between operators. One thread at a time uses it. Free of
// CUDA headers, so that anyone may include it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/device.h"

struct CUstream_st;  // *: cudaStream_t

namespace polystrate {

class GraphRecorder;  // kernels/cuda/graph_recorder.h
namespace cuda {
class LibraryGemm;  // kernels/cuda/library_gemm.h: cuBLASLt and what it was found to do best
class UploadRing;   // kernels/cuda/upload_ring.h
}  // namespace cuda

struct GpuProperties {
  std::string name;
  std::string pci_bus_id;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  int64_t max_shared_bytes = 0;  // dynamic, of one thread block
  int64_t l2_bytes = 0;
  int64_t total_bytes = 0;
};

class CudaContext {
 public:
  static absl::StatusOr<std::unique_ptr<CudaContext>> Create(int device);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int device() const { return device_; }
  CUstream_st* stream() const { return stream_; }
  const GpuProperties& properties() const { return properties_; }
  cuda::LibraryGemm& cublaslt_gemm() { return *library_gemm_; }
  void Synchronize() const;

  // Whether operators run kernels of warpgroups (kernels/cuda/warpgroup.cuh), which only GPUs of
  // compute capability 9.0 can; on others it stays false. False at first (context.cc says why).
  bool warpgroups() const { return warpgroups_; }
  void set_warpgroups(bool wanted);

  // A copy of host memory on the device, for operators that are enqueued until 32 MiB more have
  // been uploaded. Not while a graph is recorded: the copy would be repeated, its source long
  // overwritten.
  const void* Upload(const void* data, int64_t num_bytes);
  // To device memory that stays.
  void UploadTo(void* to, const void* data, int64_t num_bytes);
  template <typename T>
  const T* Upload(absl::Span<const T> values) {
    return static_cast<const T*>(
        Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T))));
  }

  // Device memory for the operator that asks, until the next one is enqueued, or for one that is
  // recorded, whenever its graph runs; aligned to 256. Grows when more is asked for than ever
  // before, and not while a graph is recorded: a first, unrecorded run of the same operators takes
  // what they need.
  void* Scratch(int64_t num_bytes);

  // Zeros, at most kMaxCounters, for the operator that asks; it leaves zeros.
  static constexpr int64_t kMaxCounters = 8192;
  uint32_t* Counters(int64_t count) const;

  // Not null: what is enqueued now goes into a graph (kernels/core/step_graph.h).
  GraphRecorder* recorder() const { return recorder_; }
  bool recording() const { return recorder_ != nullptr; }
  void set_recorder(GraphRecorder* recorder) { recorder_ = recorder; }

 private:
  explicit CudaContext(int device);

  const int device_;
  CUstream_st* stream_ = nullptr;
  GpuProperties properties_;
  bool warpgroups_ = false;
  GraphRecorder* recorder_ = nullptr;
  Buffer counters_;
  Buffer scratch_;
  std::vector<Buffer> outgrown_;  // what graphs may yet use; all together less than scratch_
  std::unique_ptr<cuda::UploadRing> upload_ring_;
  std::unique_ptr<cuda::LibraryGemm> library_gemm_;
};

}  // namespace polystrate
