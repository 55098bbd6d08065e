#include "kernels/cpu/isa.h"

#include "kernels/core/check.h"

namespace polystrate::cpu {

bool Supports(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512Bf16:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bf16");
  }
  return false;
}

Isa BestIsa() { return Supports(Isa::kAvx512Bf16) ? Isa::kAvx512Bf16 : Isa::kAvx2; }

CpuKernels KernelsFor(Isa isa) {
  CHECK(Supports(isa));
  return isa == Isa::kAvx512Bf16 ? avx512::MakeKernels() : avx2::MakeKernels();
}

}  // namespace polystrate::cpu
