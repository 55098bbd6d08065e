// RpcServer: an engine's gRPC face: Inference, Control, Admin, VllmEngine, grpc.health.v1 and
// reflection on one port.
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
#include "rpc/grpc_server.h"
#include "rpc/inference_service.h"
#include "rpc/vllm/vllm_service.h"

namespace polystrate {

class RpcServer {
 public:
  // `engine` and `log` must outlive the server, whose streams end when it is destroyed.
  explicit RpcServer(Engine& engine, RequestLog* log = nullptr);
  ~RpcServer();

  // As StartGrpcServer. Answers from then on, NOT_SERVING at first.
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
  VllmService vllm_;
  absl::Mutex mutex_;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace polystrate
