// Stand-in for CUDA's header, first on the include path where kernels/cuda/ is compiled by a C++
// compiler: a GPU that is this process.
//
// Finds: wrong arithmetic, indices and layouts; barriers that threads miss or meet apart, and masks
// that do not fit; missing barriers, of warps and of lanes, and cp.async that nobody waited for
// (poison, or the later value: block.h); products of warpgroups whose registers or shared memory
// are touched too early or not fenced, and wrong descriptors (warpgroup.h); memory that nobody
// wrote; accesses behind allocations and shared memory, misaligned ones, and host code on device
// memory; results read, and sources changed, before the stream was waited for (stream.h); launches,
// copies and captures that CUDA refuses.
//
// Cannot find: races whose order block.h does not try, and what the memory model allows beyond one
// thread after another; static shared memory and registers beyond the limit; LetNextKernelStart
// without its wait; the accuracy of approximate instructions; anything in the real ptx.cuh
// and warpgroup.cuh; speed.
#pragma once

#include "emulated/math_functions.h"
#include "emulated/qualifiers.h"
#include "emulated/runtime_api.h"
#include "emulated/vector_types.h"
#include "emulated/warp_functions.h"
