// What the emulator reads in its own executable's symbol table: names of kernels, and where their
// `__shared__` variables lie.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace polystrate::emulator {

// A `__shared__` variable: thread_local, inside a function of namespace polystrate::cuda.
struct SharedVariable {
  size_t offset = 0;  // in ThreadStorage()
  size_t num_bytes = 0;
};
const std::vector<SharedVariable>& SharedVariables();

// The calling thread's copy of the executable's thread_local variables.
char* ThreadStorage();

// The function's name without its parameters; its address when it has none.
std::string KernelName(const void* kernel);

}  // namespace polystrate::emulator
