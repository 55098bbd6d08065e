// RegistryService: polystrate.v1.Coordinator over a pool. Every method answers at once.
#pragma once

#include "polystrate_coordinator.grpc.pb.h"
#include "rpc/coordinator/engine_pool.h"

namespace polystrate {

class RegistryService final : public v1::Coordinator::CallbackService {
 public:
  explicit RegistryService(EnginePool& pool) : pool_(pool) {}  // must outlive the service

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const v1::RegisterRequest* request,
                                     v1::RegisterResponse* response) override;
  grpc::ServerUnaryReactor* ListEngines(grpc::CallbackServerContext* context,
                                        const v1::ListEnginesRequest* request,
                                        v1::ListEnginesResponse* response) override;

 private:
  EnginePool& pool_;
};

}  // namespace polystrate
