// What the files of one instruction set give to its table (table.cc).
#pragma once

#include "kernels/cpu/isa.h"

namespace polystrate::cpu::POLYSTRATE_ISA {

void DotFloat32(const DotTask& task);
void DotBFloat16(const DotTask& task);
void AttendFloat32(const AttentionTask& task);
void AttendBFloat16(const AttentionTask& task);
// Sets all but dot and attend.
void SetPointwise(CpuKernels* kernels);

}  // namespace polystrate::cpu::POLYSTRATE_ISA
