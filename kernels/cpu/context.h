// CpuContext: what a CPU stream owns between operators. One thread at a time uses it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/cpu/arena.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/library_gemm.h"

namespace polystrate {

class CpuContext {
 public:
  explicit CpuContext(int num_threads);
  CpuContext(const CpuContext&) = delete;
  CpuContext& operator=(const CpuContext&) = delete;

  int num_threads() const { return num_threads_; }
  const cpu::CpuKernels& kernels() const { return kernels_; }
  // The kernels for storage type `dtype`, float32 or bfloat16.
  const cpu::TypedKernels& kernels(DType dtype) const {
    return dtype == DType::kFloat32 ? kernels_.float32 : kernels_.bfloat16;
  }
  // Scratch of worker `thread` (in [0, num_threads)), to be used by that worker alone.
  cpu::Arena& thread_arena(int thread) { return thread_arenas_[thread]; }
  // Two of the thread that called the operator; workers may share what it got.
  cpu::Arena& shared_arena() { return shared_arena_; }
  cpu::Arena& plan_arena() { return plan_arena_; }
  cpu::LibraryGemm& onednn_gemm() { return library_gemm_; }

  // For tests: use the kernels of another instruction set, which the processor must support.
  void UseIsa(cpu::Isa isa);
  cpu::Isa isa() const { return isa_; }
  // For tests: threads share even work that one alone would have done sooner.
  void SetMinParallelWork(int64_t work) { min_parallel_work_ = work; }
  // Bytes or multiply-adds.
  int64_t min_parallel_work() const { return min_parallel_work_; }

 private:
  // Less than this ends sooner on one thread: on an idle machine it takes some 20 us, of which a
  // second thread saves little more than its start costs, and where another process has the second
  // core, waiting for it costs milliseconds.
  static constexpr int64_t kMinParallelWork = 256 * 1024;

  const int num_threads_;
  int64_t min_parallel_work_ = kMinParallelWork;
  cpu::Isa isa_;
  cpu::CpuKernels kernels_;
  std::vector<cpu::Arena> thread_arenas_;
  cpu::Arena shared_arena_;
  cpu::Arena plan_arena_;
  cpu::LibraryGemm library_gemm_;
};

}  // namespace polystrate
