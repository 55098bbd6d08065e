// CoordinatorInference: openengine.v1.Inference over all engines of a coordinator. Looks at as
// little of a request as it can: what an engine refuses, it refuses.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "openengine.grpc.pb.h"
#include "rpc/coordinator/call_registry.h"

namespace polystrate {

class CoordinatorInference final : public openengine::v1::Inference::CallbackService {
 public:
  // `registry` must outlive the service and every stream.
  explicit CoordinatorInference(CallRegistry& registry);

  grpc::ServerWriteReactor<openengine::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const openengine::v1::GenerateRequest* request) override;

 private:
  CallRegistry& registry_;
  const std::string id_prefix_;  // of the ids that this process makes
  std::atomic<uint64_t> num_ids_{0};
};

}  // namespace polystrate
