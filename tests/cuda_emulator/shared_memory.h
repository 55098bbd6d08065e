// Shared memory of the block that the calling thread runs. `__shared__` variables are thread_local
// ones, found by their symbols (symbols.h); dynamic memory lies between pages that nothing may
// touch. Both hold poison when a block begins: bytes 0xff, NaN in every floating-point type.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polystrate::emulator {

constexpr int kPoison = 0xff;
constexpr size_t kMaxSharedBytes = 227 << 10;   // of a block, where a kernel has asked for it
constexpr size_t kPlainSharedBytes = 48 << 10;  // where it has not
constexpr size_t kSharedAlignment = 128;

// Poison everywhere, and dynamic memory of this size.
void PrepareSharedMemory(size_t dynamic_bytes);
unsigned char* DynamicSharedMemory();
// Whether nothing was written into the bytes between the dynamic memory and its end's page.
bool SharedMemoryIntact();
// Whether the bytes are this block's shared memory.
bool InSharedMemory(const void* begin, size_t num_bytes);

// Dynamic shared memory as instructions name it: an address below 2^18, aligned as the pointer is
// up to a page. Zero and null for what is not there.
uint32_t SharedAddress(const void* pointer);
unsigned char* AtSharedAddress(uint32_t address);

}  // namespace polystrate::emulator
