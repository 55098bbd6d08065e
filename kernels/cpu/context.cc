#include "kernels/cpu/context.h"

namespace polystrate {

CpuContext::CpuContext(int num_threads)
    : num_threads_(num_threads),
      isa_(cpu::BestIsa()),
      kernels_(cpu::KernelsFor(isa_)),
      thread_arenas_(num_threads),
      library_gemm_(num_threads) {}

void CpuContext::UseIsa(cpu::Isa isa) {
  isa_ = isa;
  kernels_ = cpu::KernelsFor(isa);
}

}  // namespace polystrate
