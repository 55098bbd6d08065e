// Fiber: a stack of its own and the place where its function goes on. What a thread of a CUDA block
// is here: switched by hand, so that every thread can wait for all others of its block.
#pragma once

#include <cstddef>

namespace polystrate::emulator {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Forgets what ran here; the next Resume calls run(argument) on the fiber's stack. `run` must not
  // return: its last act is Suspend(), after which the fiber may be started again.
  void Start(void (*run)(void* argument), void* argument);
  // Runs the fiber until it suspends itself. One fiber of an operating system's thread at a time.
  void Resume();
  // Called on the fiber: back to whoever resumed it.
  void Suspend();
  // Called on the fiber: leaves it for `next`, which from now on has this one's resumer. False, and
  // nothing done, under AddressSanitizer, which is told of stacks one way and back only.
  bool Pass(Fiber& next);

 private:
  static void Enter();

  void* stack_ = nullptr;  // lowest address of the mapping, whose first page is a guard
  void* here_ = nullptr;   // the fiber's stack pointer while it is suspended
  void* back_ = nullptr;   // the resumer's while it is not
  void (*run_)(void*) = nullptr;
  void* argument_ = nullptr;
  // What AddressSanitizer wants to know of the stack that is left.
  void* sanitizer_state_ = nullptr;
  const void* resumer_stack_ = nullptr;
  size_t resumer_stack_bytes_ = 0;
};

}  // namespace polystrate::emulator
