// AdminService: polystrate.v1.Admin over an engine. Every method answers at once.
#pragma once

#include <functional>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "polystrate_admin.grpc.pb.h"

namespace polystrate {

class AdminService final : public polystrate::v1::Admin::CallbackService {
 public:
  // `engine` must outlive the service; `drain` is what Drain() does.
  AdminService(Engine& engine, std::function<void(absl::Duration timeout)> drain);

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;
  grpc::ServerUnaryReactor* GetStages(grpc::CallbackServerContext* context,
                                      const v1::GetStagesRequest* request,
                                      v1::GetStagesResponse* response) override;

 private:
  Engine& engine_;
  const std::function<void(absl::Duration timeout)> drain_;
};

}  // namespace polystrate
