// CoordinatorControl: openengine.v1.Control over all engines of a coordinator: they are shown as
// one engine that can do what all of them can. Every method answers at once, from what the pool saw
// last.
#pragma once

#include <string>

#include "openengine.grpc.pb.h"
#include "rpc/coordinator/call_registry.h"

namespace polystrate {

class CoordinatorControl final : public openengine::v1::Control::CallbackService {
 public:
  // `registry`, with its pool, must outlive the service.
  explicit CoordinatorControl(CallRegistry& registry);

  // Of the first engine that serves, with this process's own instance_id; `extra` has
  // "coordinator": true and "engines", their number. UNAVAILABLE while none serves.
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const openengine::v1::GetServerInfoRequest* request,
                                          openengine::v1::ServerInfo* response) override;
  // Of the first engine that has the model. NOT_FOUND; UNAVAILABLE while none serves.
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const openengine::v1::GetModelInfoRequest* request,
                                         openengine::v1::ModelInfo* response) override;
  // Sums over the engines that serve; `ranks`, if asked for, has one for each, by target.
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const openengine::v1::GetLoadRequest* request,
                                    openengine::v1::LoadInfo* response) override;
  // READY while an engine serves, STARTING before the first one, else NOT_READY.
  grpc::ServerUnaryReactor* Health(grpc::CallbackServerContext* context,
                                   const openengine::v1::HealthRequest* request,
                                   openengine::v1::HealthResponse* response) override;
  // Of what goes through this coordinator, wherever it is.
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const openengine::v1::AbortRequest* request,
                                  openengine::v1::AbortResponse* response) override;

 private:
  CallRegistry& registry_;
  const std::string instance_id_;
};

}  // namespace polystrate
