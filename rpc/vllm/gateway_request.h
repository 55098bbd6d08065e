// Requests of vllm.grpc.engine as openengine.v1's. Pure functions.
#pragma once

#include "absl/status/statusor.h"
#include "openengine_generate.pb.h"
#include "vllm_engine.pb.h"

namespace polystrate {

namespace pb = openengine::v1;
namespace gateway = vllm::grpc::engine;

// UNIMPLEMENTED names a field that is set and not supported, INVALID_ARGUMENT one that is out of a
// range which openengine.v1 cannot express. All other ranges are left to the engine.
absl::StatusOr<pb::GenerateRequest> FromGateway(const gateway::GenerateRequest& wire);

}  // namespace polystrate
