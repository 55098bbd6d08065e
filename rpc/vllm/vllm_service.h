// VllmService: vllm.grpc.engine.VllmEngine, so that gateways which know vLLM can stand in front of
// an engine or a coordinator. It is a client of openengine.v1 like any other and knows neither.
#pragma once

#include <atomic>
#include <memory>

#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/reader_watch.h"
#include "rpc/vllm/gateway_stream.h"
#include "rpc/vllm/live_calls.h"
#include "vllm_engine.grpc.pb.h"

namespace polystrate {

class VllmService final : public vllm::grpc::engine::VllmEngine::CallbackService {
 public:
  VllmService();
  ~VllmService() override;  // its server is gone

  // Once: where Inference and Control are, as a rule on the server that this service is part of
  // (InProcessChannel), which the service is built before. Until then calls are UNAVAILABLE.
  // Streams whose reader takes nothing for `reader_timeout` are given up (ReaderWatch).
  void SetBackend(const std::shared_ptr<grpc::Channel>& engine, absl::Duration reader_timeout);
  void WaitForStreams(absl::Time deadline) { reader_watch_.WaitForNone(deadline); }

  grpc::ServerWriteReactor<gateway::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const gateway::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* HealthCheck(grpc::CallbackServerContext* context,
                                        const gateway::HealthCheckRequest* request,
                                        gateway::HealthCheckResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const gateway::AbortRequest* request,
                                  gateway::AbortResponse* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const gateway::GetModelInfoRequest* request,
                                         gateway::GetModelInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const gateway::GetServerInfoRequest* request,
                                          gateway::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context,
                                     const gateway::GetLoadsRequest* request,
                                     gateway::GetLoadsResponse* response) override;
  // The rest of the interface is left to its base, which answers UNIMPLEMENTED.

 private:
  // `call` begins one call of the engine's Control; `then` makes the answer of what it says.
  template <typename Request, typename Response, typename Call, typename Then>
  grpc::ServerUnaryReactor* Relay(grpc::CallbackServerContext* context, Call call, Then then);

  const absl::Time start_;
  LiveCalls calls_;
  ReaderWatch<GatewayStream> reader_watch_;
  std::unique_ptr<pb::Inference::Stub> inference_;
  std::unique_ptr<pb::Control::Stub> control_;
  std::atomic<bool> has_backend_{false};  // the two are there
};

}  // namespace polystrate
