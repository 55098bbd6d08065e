// A TCP socket that never blocks, and how a thread waits for several of them.
#pragma once

#include <poll.h>

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace polystrate {

// Closed when it goes away.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  int fd() const { return fd_; }  // -1: none

  // Listens on a free port, of the loopback interface or of all.
  static absl::StatusOr<Socket> Listen(bool loopback, int* port);
  // What has been connected to a listening socket; fd() is -1 when nothing has.
  Socket Accept() const;
  // `host` is numeric. UNAVAILABLE when nobody takes the connection.
  static absl::StatusOr<Socket> Connect(const std::string& host, int port, absl::Duration timeout);

 private:
  int fd_;
};

// Wakes a thread that is in WaitForInput, from another.
class Wakeup {
 public:
  Wakeup();
  void Set();
  bool is_set() const { return set_; }
  int fd() const { return event_.fd(); }

 private:
  std::atomic<bool> set_{false};
  Socket event_;
};

// Until one of `inputs` can be read or the time is over.
void WaitForInput(std::vector<pollfd>* inputs, absl::Duration timeout);

}  // namespace polystrate
