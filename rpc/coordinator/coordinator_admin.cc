#include "rpc/coordinator/coordinator_admin.h"

#include "rpc/drain_timeout.h"
#include "rpc/unary_reply.h"

namespace polystrate {

grpc::ServerUnaryReactor* CoordinatorAdmin::Drain(grpc::CallbackServerContext* context,
                                                  const v1::DrainRequest* request,
                                                  v1::DrainResponse* response) {
  const absl::StatusOr<absl::Duration> timeout = DrainTimeout(*request, timeout_);
  if (timeout.ok()) {
    drain_(*timeout);
    response->set_live_requests(static_cast<uint32_t>(registry_.num_calls()));
  }
  return Reply(context, timeout.status());
}

}  // namespace polystrate
