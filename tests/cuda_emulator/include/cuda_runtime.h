// Stand-in for CUDA's header, first on the include path where kernels/cuda/ is compiled by a C++
// compiler: a GPU that is this process (docs/architecture.md, "The CUDA emulator").
#pragma once

#include "emulated/math_functions.h"
#include "emulated/qualifiers.h"
#include "emulated/runtime_api.h"
#include "emulated/vector_types.h"
#include "emulated/warp_functions.h"
