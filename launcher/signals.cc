#include "launcher/signals.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "kernels/core/check.h"

namespace polystrate {
namespace {

// The one mutable global of the program: a signal handler has no other way to reach anything.
// Written once by InstallDrainSignals.
int signal_pipe[2] = {-1, -1};

constexpr int kDrainSignals[] = {SIGTERM, SIGINT, SIGUSR1};

sigset_t DrainSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : kDrainSignals) sigaddset(&signals, number);
  return signals;
}

constexpr unsigned char kFromParent = 0x80;  // beside the number

void Write(unsigned char byte) {
  [[maybe_unused]] const ssize_t written = write(signal_pipe[1], &byte, 1);  // full: one is enough
}

extern "C" void OnDrainSignal(int number, siginfo_t* info, void* /*context*/) {
  const int saved_errno = errno;
  const bool from_parent = info->si_code <= 0 && info->si_pid == getppid();  // <= 0: a process
  Write(static_cast<unsigned char>(number) | (from_parent ? kFromParent : 0));
  errno = saved_errno;
}

}  // namespace

void InstallDrainSignals() {
  CHECK_EQ(pipe2(signal_pipe, O_CLOEXEC), 0);
  CHECK_EQ(fcntl(signal_pipe[1], F_SETFL, O_NONBLOCK), 0);
  struct sigaction action = {};
  action.sa_sigaction = OnDrainSignal;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  for (int number : kDrainSignals) CHECK_EQ(sigaction(number, &action, nullptr), 0);
}

void BlockDrainSignals() {
  const sigset_t signals = DrainSignals();
  CHECK_EQ(sigprocmask(SIG_BLOCK, &signals, nullptr), 0);
}

void UnblockDrainSignals() {
  const sigset_t signals = DrainSignals();
  CHECK_EQ(sigprocmask(SIG_UNBLOCK, &signals, nullptr), 0);
}

SignalWatcher::SignalWatcher(std::function<void(DrainSignal)> on_signal)
    : thread_([on_signal = std::move(on_signal)] {
        unsigned char byte = 0;
        while (true) {
          const ssize_t n = read(signal_pipe[0], &byte, 1);
          if (n < 0 && errno == EINTR) continue;
          if (n != 1 || byte == 0) return;  // 0: the destructor
          on_signal({byte & ~kFromParent, (byte & kFromParent) != 0});
        }
      }) {}

SignalWatcher::~SignalWatcher() {
  Write(0);
  thread_.join();
}

}  // namespace polystrate
