#include "rpc/admin_service.h"

#include <algorithm>
#include <utility>

#include "rpc/drain_timeout.h"
#include "rpc/unary_reply.h"

namespace polystrate {

AdminService::AdminService(Engine& engine, std::function<void(absl::Duration timeout)> drain)
    : engine_(engine), drain_(std::move(drain)) {}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest* request,
                                              v1::DrainResponse* response) {
  const absl::StatusOr<absl::Duration> timeout =
      DrainTimeout(*request, engine_.options().drain_timeout);
  if (!timeout.ok()) return Reply(context, timeout.status());
  drain_(*timeout);
  const EngineLoad load = engine_.load();
  response->set_live_requests(static_cast<uint32_t>(load.running_requests + load.queued_requests));
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* AdminService::GetStages(grpc::CallbackServerContext* context,
                                                  const v1::GetStagesRequest* /*request*/,
                                                  v1::GetStagesResponse* response) {
  for (const RankStatus& status : engine_.ranks().Read()) {
    v1::RankActivity& rank = *response->add_ranks();
    rank.set_rank(static_cast<uint32_t>(status.rank));
    rank.set_tp_rank(static_cast<uint32_t>(status.tp_rank));
    rank.set_pp_rank(static_cast<uint32_t>(status.pp_rank));
    rank.set_host(status.host);
    rank.set_pid(status.pid);
    rank.set_busy_seconds(absl::ToDoubleSeconds(status.busy()));
    rank.set_waiting_seconds(absl::ToDoubleSeconds(status.waiting()));
    rank.set_bubble_share(status.bubble_share());
    rank.set_steps(status.report.steps);
    rank.set_tokens(status.report.tokens);
    rank.set_last_step_id(status.report.step_id);
    rank.set_doing(Describe(status.report, engine_.options().parallel.pp_size));
  }
  for (const StageLayout& layout : engine_.options().stages) {
    v1::StageLayout& stage = *response->add_stages();
    stage.set_pp_rank(static_cast<uint32_t>(response->stages_size() - 1));
    stage.set_first_layer(static_cast<uint32_t>(layout.first_layer));
    stage.set_end_layer(static_cast<uint32_t>(layout.end_layer()));
    stage.mutable_kv_source()->Add(layout.kv_source.begin(), layout.kv_source.end());
    stage.set_kv_bytes_per_token(static_cast<uint64_t>(layout.kv_bytes_per_token));
  }
  return Reply(context, absl::OkStatus());
}

}  // namespace polystrate
