// What openengine.v1's Control says, in the words of vllm.grpc.engine. Pure functions.
#pragma once

#include "absl/time/time.h"
#include "openengine_control.pb.h"
#include "vllm_engine.pb.h"

namespace polystrate {

namespace pb = openengine::v1;
namespace gateway = vllm::grpc::engine;

void ToGateway(const pb::HealthResponse& health, gateway::HealthCheckResponse* wire);
void ToGateway(const pb::ModelInfo& model, gateway::GetModelInfoResponse* wire);
void ToGateway(const pb::LoadInfo& load, absl::Duration uptime,
               gateway::GetServerInfoResponse* wire);
void ToGateway(const pb::ServerInfo& server, const pb::LoadInfo& load, absl::Time now,
               gateway::GetLoadsResponse* wire);

}  // namespace polystrate
