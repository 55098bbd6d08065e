#include "tests/cuda_emulator/fault.h"

#include <csignal>
#include <cstdio>

#include "tests/cuda_emulator/block.h"

namespace polystrate::emulator {
#ifdef __SANITIZE_ADDRESS__
void NameFaults() {}
#else
namespace {

// The program ends here, so that calls which are not safe in a handler may at worst not print.
void Tell(int signal, siginfo_t* info, void*) {
  std::signal(signal, SIG_DFL);
  const bool keyed = signal == SIGSEGV && info->si_code == SEGV_PKUERR;
  const char* what = keyed               ? "host code touched device memory"
                     : signal == SIGILL  ? "misaligned access or index out of bounds"
                     : signal == SIGFPE  ? "integer division by zero"
                     : signal == SIGSEGV ? "access outside of any memory"
                                         : "bad access";
  std::fprintf(stderr, "CUDA emulator:%s: %s (address %p)\n", DescribePlace().c_str(), what,
               info->si_addr);
}

void Install() {
  struct sigaction action = {};
  action.sa_sigaction = Tell;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(signal, &action, nullptr);
}

}  // namespace

void NameFaults() {
  static const bool installed = [] {
    Install();
    return true;
  }();
  (void)installed;
}
#endif

}  // namespace polystrate::emulator
