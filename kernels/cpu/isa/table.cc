#include "kernels/cpu/isa/kernels.h"

namespace polystrate::cpu::POLYSTRATE_ISA {

CpuKernels MakeKernels() {
  CpuKernels kernels;
  kernels.float32.dot = DotFloat32;
  kernels.bfloat16.dot = DotBFloat16;
  kernels.float32.attend = AttendFloat32;
  kernels.bfloat16.attend = AttendBFloat16;
  SetPointwise(&kernels);
  return kernels;
}

}  // namespace polystrate::cpu::POLYSTRATE_ISA
