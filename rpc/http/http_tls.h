// TLS of HTTP connections: the server's certificate, which may be replaced while it runs, and what
// a connection does with it.
#pragma once

#include <openssl/ssl.h>
#include <sys/types.h>

#include <cstddef>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "rpc/server_credentials.h"
#include "rpc/watched_file.h"

namespace polystrate {

// Any thread.
class HttpTls {
 public:
  // Of `security` the three files of TLS. Errors name the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<HttpTls>> Create(const ServerSecurity& security);

  // What a new connection uses: the files as they are now; if they are no good, as they were.
  std::shared_ptr<SSL_CTX> Current() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit HttpTls(const ServerSecurity& security);
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  WatchedFile certificates_ ABSL_GUARDED_BY(mutex_);
  WatchedFile private_key_ ABSL_GUARDED_BY(mutex_);
  std::optional<WatchedFile> client_ca_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<SSL_CTX> current_ ABSL_GUARDED_BY(mutex_);
};

// The server's end of one connection, over a socket that does not block. The first call shakes
// hands. One thread.
class TlsSession {
 public:
  TlsSession(std::shared_ptr<SSL_CTX> context, int socket);
  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  // At least a byte, or -1: `wait_for` then is what poll() has to find before it is tried again, or
  // 0 when nothing will come of it.
  ssize_t Read(char* data, size_t size, short* wait_for);
  ssize_t Write(const char* data, size_t size, short* wait_for);

 private:
  ssize_t Result(int result, short* wait_for);

  const std::shared_ptr<SSL_CTX> context_;
  SSL* const ssl_;
  bool broken_ = false;
};

}  // namespace polystrate
