#include "rpc/vllm/gateway_control.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace polystrate {
namespace {

int32_t Int32(uint64_t count) {
  return static_cast<int32_t>(std::min<uint64_t>(count, std::numeric_limits<int32_t>::max()));
}

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

void ToGateway(const pb::HealthResponse& health, gateway::HealthCheckResponse* wire) {
  wire->set_healthy(health.state() == pb::HEALTH_STATE_READY ||
                    health.state() == pb::HEALTH_STATE_DEGRADED);
  wire->set_message(pb::HealthState_Name(health.state()));
}

void ToGateway(const pb::ModelInfo& model, gateway::GetModelInfoResponse* wire) {
  wire->set_is_generation(true);
  wire->set_served_model_name(model.served_model_name());
  wire->set_max_context_length(model.max_context_length());
  wire->set_max_req_input_len(Int32(model.max_context_length()));
  const auto& extra = model.extra().fields();
  if (const auto found = extra.find("vocab_size"); found != extra.end()) {
    wire->set_vocab_size(static_cast<uint32_t>(found->second.number_value()));
  }
  if (const auto found = extra.find("eos_token_ids"); found != extra.end()) {
    for (const auto& id : found->second.list_value().values()) {
      wire->add_eos_token_ids(static_cast<int32_t>(id.number_value()));
    }
  }
}

void ToGateway(const pb::LoadInfo& load, absl::Duration uptime,
               gateway::GetServerInfoResponse* wire) {
  wire->set_active_requests(load.running_requests() + load.queued_requests());
  wire->set_uptime_seconds(absl::ToDoubleSeconds(uptime));
  wire->set_server_type("polystrate");
  wire->set_data_parallel_size(1);
}

void ToGateway(const pb::ServerInfo& server, const pb::LoadInfo& load, absl::Time now,
               gateway::GetLoadsResponse* wire) {
  wire->set_timestamp(absl::FormatTime(absl::RFC3339_full, now, absl::UTCTimeZone()));
  wire->set_version(server.engine_version());
  wire->set_dp_rank_count(1);
  gateway::SchedulerLoad& only = *wire->add_loads();
  only.set_num_running_reqs(Int32(load.running_requests()));
  only.set_num_waiting_reqs(Int32(load.queued_requests()));
  only.set_num_total_reqs(Int32(uint64_t{load.running_requests()} + load.queued_requests()));
  only.set_num_used_tokens(Int32(load.running_tokens()));
  only.set_max_total_num_tokens(Int32(load.total_kv_blocks() * server.capacity().kv_block_size()));
  only.set_token_usage(Share(load.used_kv_blocks(), load.total_kv_blocks()));
  const uint64_t most = server.capacity().max_running_requests();
  only.set_utilization(Share(load.running_requests(), most));
  only.set_max_running_requests(Int32(most));
}

}  // namespace polystrate
