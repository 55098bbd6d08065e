// HttpConnection: a client's connection, as httplib reads requests from it and writes answers to
// it. Every wait is bounded, and so is what a request may hold before anybody has looked at it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "httplib.h"
#include "rpc/http/http_tls.h"

namespace polystrate {

struct ConnectionLimits {
  absl::Duration idle_timeout = absl::Seconds(30);    // between two requests
  absl::Duration header_timeout = absl::Seconds(10);  // for all of a request's headers
  absl::Duration body_timeout = absl::Seconds(60);    // for all of its body
  absl::Duration write_timeout = absl::Seconds(30);   // in which a client has to take something
  int64_t max_header_bytes = 64 << 10;
  int64_t max_body_bytes = 32 << 20;
};

// One thread. Does not own the socket, which must not block.
class HttpConnection final : public httplib::Stream {
 public:
  // `tls` null: plain text.
  HttpConnection(int socket, const ConnectionLimits& limits, std::unique_ptr<TlsSession> tls);

  // True as soon as a request has begun; false when the client has gone or let the time pass.
  bool AwaitRequest();
  // The headers are read: what follows is the body.
  void BeginBody();
  int64_t body_bytes_read() const { return body_bytes_read_; }
  // Whether what is being read, headers or body, has come to its limit.
  bool limit_reached() const { return left_to_read_ <= 0; }
  // Whether somebody is there to answer. One system call.
  bool ClientIsThere() const;

  // At least a byte; -1 at the end, when a limit is passed and on errors.
  ssize_t read(char* data, size_t size) override;
  ssize_t write(const char* data, size_t size) override;
  bool is_readable() const override { return begin_ < end_; }
  bool is_writable() const override { return ClientIsThere(); }
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  int socket() const override { return socket_; }

 private:
  // Waits for `events` of poll(); false when it is too late.
  bool Await(short events, absl::Time deadline) const;
  bool Fill(absl::Time deadline);
  // As TlsSession's.
  ssize_t Receive(char* data, size_t size, short* wait_for);
  ssize_t Transmit(const char* data, size_t size, short* wait_for);

  const int socket_;
  const ConnectionLimits& limits_;
  const std::unique_ptr<TlsSession> tls_;
  absl::Time read_deadline_;
  int64_t left_to_read_ = 0;  // of what a request may have
  int64_t body_bytes_read_ = 0;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // of what was received and not read
  size_t end_ = 0;
};

}  // namespace polystrate
