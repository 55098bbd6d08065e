// CoordinatorServer: a coordinator's gRPC face: the services of an engine, over all its engines,
// and polystrate.v1.Coordinator, on one port; and whatever else it owns.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "rpc/coordinator/call_registry.h"
#include "rpc/coordinator/coordinator_admin.h"
#include "rpc/coordinator/coordinator_control.h"
#include "rpc/coordinator/coordinator_inference.h"
#include "rpc/coordinator/engine_pool.h"
#include "rpc/coordinator/registry_service.h"
#include "rpc/grpc_server.h"
#include "rpc/http/http_server.h"
#include "rpc/vllm/vllm_service.h"

namespace polystrate {

struct CoordinatorOptions {
  std::string listen = "127.0.0.1:50050";
  RpcServerOptions rpc;
  EnginePoolOptions pool;
  std::vector<std::string> engines;  // HOST:PORT
  CarryOptions carry;
  std::string request_log;  // as RequestLog::Open's path
  absl::Duration drain_timeout = absl::Seconds(30);
  std::string http_listen;  // of the OpenAI API, metrics and the status page; empty: none
  HttpOptions http;
};

class CoordinatorServer {
 public:
  // Serves from then on; grpc.health.v1 says SERVING while an engine does. What StartGrpcServer and
  // EnginePool::Create find wrong.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(
      const CoordinatorOptions& options);
  ~CoordinatorServer();

  int port() const { return port_; }
  int http_port() const { return http_ == nullptr ? 0 : http_->port(); }
  CallRegistry& registry() { return registry_; }
  // To the services of this server, past its port and the keys that it wants.
  std::shared_ptr<grpc::Channel> InProcessChannel();
  bool serving() const ABSL_LOCKS_EXCLUDED(mutex_);

  // NOT_SERVING and no new requests; those that still live after `timeout` end UNAVAILABLE. Any
  // thread.
  void Drain(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);
  // Until the drain that has begun is over.
  void WaitUntilDrained();

 private:
  explicit CoordinatorServer(const CoordinatorOptions& options);
  absl::Status ListenHttp();
  std::string Status() const;  // as JSON
  // The health thread.
  void Run();
  void PublishHealth() ABSL_LOCKS_EXCLUDED(mutex_);

  const CoordinatorOptions options_;
  const absl::Time started_ = absl::Now();
  std::unique_ptr<RequestLog> log_;
  mutable CallRegistry registry_;
  std::unique_ptr<EnginePool> pool_;
  CoordinatorInference inference_;
  CoordinatorControl control_;
  CoordinatorAdmin admin_;
  std::unique_ptr<RegistryService> engines_;
  VllmService vllm_;

  mutable absl::Mutex mutex_;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<HttpServer> http_;
  std::thread health_;
  int port_ = 0;
};

}  // namespace polystrate
