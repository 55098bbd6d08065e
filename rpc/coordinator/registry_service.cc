#include "rpc/coordinator/registry_service.h"

#include "rpc/unary_reply.h"

namespace polystrate {

grpc::ServerUnaryReactor* RegistryService::Register(grpc::CallbackServerContext* context,
                                                    const v1::RegisterRequest* request,
                                                    v1::RegisterResponse* /*response*/) {
  return Reply(context, pool_.Register(*request));
}

grpc::ServerUnaryReactor* RegistryService::ListEngines(grpc::CallbackServerContext* context,
                                                       const v1::ListEnginesRequest* /*request*/,
                                                       v1::ListEnginesResponse* response) {
  for (EnginePool::View& view : pool_.Read()) response->add_engines()->Swap(&view.status);
  return Reply(context, absl::OkStatus());
}

}  // namespace polystrate
