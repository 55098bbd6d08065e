#include "rpc/coordinator/registry_service.h"

#include "rpc/grpc_status.h"

namespace polystrate {

grpc::ServerUnaryReactor* RegistryService::Register(grpc::CallbackServerContext* context,
                                                    const v1::RegisterRequest* request,
                                                    v1::RegisterResponse* /*response*/) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(pool_.Register(*request)));
  return reactor;
}

grpc::ServerUnaryReactor* RegistryService::ListEngines(grpc::CallbackServerContext* context,
                                                       const v1::ListEnginesRequest* /*request*/,
                                                       v1::ListEnginesResponse* response) {
  for (EnginePool::View& view : pool_.Read()) response->add_engines()->Swap(&view.status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace polystrate
