// RpcServer: an engine's gRPC face: Inference, Control, Admin, grpc.health.v1 and reflection on one
// port.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "rpc/admin_service.h"
#include "rpc/control_service.h"
#include "rpc/inference_service.h"
#include "rpc/server_credentials.h"

namespace polystrate {

struct RpcServerOptions {
  ServerSecurity security;
  int64_t max_message_bytes = 64 << 20;               // of one request or event; 1 KiB to 2 GiB - 1
  absl::Duration reader_timeout = absl::Seconds(30);  // ReaderWatch
};

class RpcServer {
 public:
  // `engine` and `log` must outlive the server, whose streams end when it is destroyed.
  explicit RpcServer(Engine& engine, RequestLog* log = nullptr);
  ~RpcServer();

  // `address` is HOST:PORT; port 0 takes a free one. Answers from then on, NOT_SERVING at first.
  // INVALID_ARGUMENT for an address that is none or not this machine's; UNAVAILABLE when the port
  // is in use; what CreateServerCredentials finds wrong. Warns when others than this machine can
  // reach it and it is in plaintext or open to all.
  absl::Status Start(const std::string& address, const RpcServerOptions& options = {});
  int port() const { return port_; }

  // What grpc.health.v1 says, of the whole server and of each service. The first `true` also lets
  // Generate through; call it when every rank has its weights, before Engine::Run, so that who has
  // seen SERVING is never turned away. Any thread. False when it is to be but drains.
  bool SetServing(bool serving) ABSL_LOCKS_EXCLUDED(mutex_);
  // NOT_SERVING from now on, also if weights are still being read, and Engine::BeginDrain. Any
  // thread.
  void Drain(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);

  // NOT_SERVING; streams may go on until `deadline`, then they are cancelled. Returns when all are
  // gone. Idempotent.
  void Shutdown(absl::Time deadline);

 private:
  void SetHealth(bool serving);

  Engine& engine_;
  InferenceService inference_;
  ControlService control_;
  AdminService admin_;
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace polystrate
