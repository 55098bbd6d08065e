#include "tests/cuda_emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>

#include "kernels/core/check.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace polystrate::emulator {
namespace {

// Of address space; a kernel's locals live in registers on a GPU, so they are few.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStackBytes = 512 << 10;
#else
constexpr size_t kStackBytes = 128 << 10;
#endif
constexpr size_t kGuardBytes = 4096;

// The fiber that is entered for the first time; Enter has no arguments.
thread_local Fiber* entered = nullptr;

}  // namespace

// Saves what a called function must leave alone and the stack pointer, then goes on where the other
// stack was left. (System V ABI; the floating-point control words are everybody's.)
extern "C" void polystrate_switch_stack(void** save, void* to);
asm(R"(
.text
.globl polystrate_switch_stack
.type polystrate_switch_stack, @function
polystrate_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size polystrate_switch_stack, .-polystrate_switch_stack
)");

Fiber::~Fiber() {
  if (stack_ != nullptr) munmap(stack_, kStackBytes);
}

void Fiber::Start(void (*run)(void*), void* argument) {
  if (stack_ == nullptr) {
    stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(stack_ != MAP_FAILED);
    CHECK_EQ(mprotect(stack_, kGuardBytes, PROT_NONE), 0);
  }
  run_ = run;
  argument_ = argument;
  // As if Enter had been called by nobody (the zero, at an address that leaves the stack aligned as
  // a call does) and had just been switched away from.
  auto* top = reinterpret_cast<uintptr_t*>(static_cast<char*>(stack_) + kStackBytes) - 1;
  *top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Fiber::Enter);
  for (int i = 0; i < 6; ++i) *--top = 0;
  here_ = top;
}

void Fiber::Enter() {
  Fiber* self = entered;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &self->resumer_stack_, &self->resumer_stack_bytes_);
#endif
  self->run_(self->argument_);
  CheckFailed(__FILE__, __LINE__, "a fiber came to its end");
}

void Fiber::Resume() {
  entered = this;
#ifdef __SANITIZE_ADDRESS__
  void* state = nullptr;
  __sanitizer_start_switch_fiber(&state, stack_, kStackBytes);
#endif
  polystrate_switch_stack(&back_, here_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(state, nullptr, nullptr);
#endif
}

bool Fiber::Pass([[maybe_unused]] Fiber& next) {
#ifdef __SANITIZE_ADDRESS__
  return false;
#else
  entered = &next;
  next.back_ = back_;
  polystrate_switch_stack(&here_, next.here_);
  return true;
#endif
}

void Fiber::Suspend() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&sanitizer_state_, resumer_stack_, resumer_stack_bytes_);
#endif
  polystrate_switch_stack(&here_, back_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(sanitizer_state_, &resumer_stack_, &resumer_stack_bytes_);
#endif
}

}  // namespace polystrate::emulator
