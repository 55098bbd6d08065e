// ControlService: openengine.v1.Control over an engine: what it is, how busy it is, and Abort.
// Every method answers at once.
#pragma once

#include <string>

#include "engine/engine.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

class ControlService final : public openengine::v1::Control::CallbackService {
 public:
  // `engine` must outlive the service.
  explicit ControlService(Engine& engine);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const openengine::v1::GetServerInfoRequest* request,
                                          openengine::v1::ServerInfo* response) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const openengine::v1::GetModelInfoRequest* request,
                                         openengine::v1::ModelInfo* response) override;
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const openengine::v1::GetLoadRequest* request,
                                    openengine::v1::LoadInfo* response) override;
  grpc::ServerUnaryReactor* Health(grpc::CallbackServerContext* context,
                                   const openengine::v1::HealthRequest* request,
                                   openengine::v1::HealthResponse* response) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context,
                                  const openengine::v1::AbortRequest* request,
                                  openengine::v1::AbortResponse* response) override;
  // The rest of the interface is left to its base, which answers UNIMPLEMENTED.

 private:
  Engine& engine_;
  const std::string instance_id_;
};

}  // namespace polystrate
