// CoordinatorAdmin: of polystrate.v1.Admin what concerns a coordinator: Drain. Its engines are
// drained one by one, at their own ports.
#pragma once

#include <functional>

#include "absl/time/time.h"
#include "polystrate_admin.grpc.pb.h"
#include "rpc/coordinator/call_registry.h"

namespace polystrate {

class CoordinatorAdmin final : public v1::Admin::CallbackService {
 public:
  // `registry` must outlive the service; `drain` is what Drain() does, after `timeout` unless the
  // request has one.
  CoordinatorAdmin(CallRegistry& registry, absl::Duration timeout,
                   std::function<void(absl::Duration timeout)> drain)
      : registry_(registry), timeout_(timeout), drain_(std::move(drain)) {}

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  CallRegistry& registry_;
  const absl::Duration timeout_;
  const std::function<void(absl::Duration timeout)> drain_;
};

}  // namespace polystrate
