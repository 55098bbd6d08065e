// Products of warpgroups (kernels/cuda/warpgroup.cuh). They run as late as they may: when the
// thread waits for them, they read their registers and shared memory as those then are. Until then
// the sums hold poison.
//
// Ends the program where registers were touched meanwhile, where shared memory was not fenced for
// them (async_proxy.h), where a descriptor has bits that mean nothing or leads out of shared
// memory, and where lanes of a warp do not agree.
#pragma once

#include <cstdint>
#include <source_location>

#include "kernels/core/dtype.h"

namespace polystrate::emulator {

// What a thread starts: sums (+)= a b, 64 x 8 num_tiles.
struct Product {
  float* sums;  // [num_tiles, 4]
  int num_tiles;
  const uint32_t* a_registers;  // 4; null: the descriptor
  uint64_t a;
  uint64_t b;
  bool b_along_rows;  // what is contiguous of b: the sum's columns, not what is added up over
  bool add;
  float (*to_float)(uint16_t bits);
};

// wgmma.fence, mma_async, commit_group and wait_group.
void StartProducts();
void Multiply(const Product& product);
void CommitProducts();
void WaitProducts(int num_pending, const std::source_location& at);

// setmaxnreg. Ends the program where there can be no such number.
void SetRegisters(int num_registers);

// A block begins.
void ForgetProducts(int num_threads);
// Whether the thread that runs has products that it has not waited for.
bool ProductsUnderWay();

}  // namespace polystrate::emulator
