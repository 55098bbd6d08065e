#include "rpc/coordinator/coordinator_control.h"

#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/unary_reply.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

std::vector<EnginePool::View> Serving(CallRegistry& registry) {
  std::vector<EnginePool::View> views = registry.pool().Read();
  views.erase(std::remove_if(views.begin(), views.end(),
                             [](const EnginePool::View& view) { return !view.status.serving(); }),
              views.end());
  return views;
}

absl::Status NoneServes() { return absl::UnavailableError("no engine serves"); }

void AddTo(const pb::LoadInfo& load, pb::LoadInfo* sum) {
  sum->set_running_requests(sum->running_requests() + load.running_requests());
  sum->set_queued_requests(sum->queued_requests() + load.queued_requests());
  sum->set_used_kv_blocks(sum->used_kv_blocks() + load.used_kv_blocks());
  sum->set_total_kv_blocks(sum->total_kv_blocks() + load.total_kv_blocks());
  sum->set_running_tokens(sum->running_tokens() + load.running_tokens());
  sum->set_waiting_tokens(sum->waiting_tokens() + load.waiting_tokens());
  sum->set_prefill_batch_size(sum->prefill_batch_size() + load.prefill_batch_size());
  sum->set_decode_batch_size(sum->decode_batch_size() + load.decode_batch_size());
  // Counters of the same name are of the same thing.
  for (const auto& [name, value] : load.attributes().fields()) {
    google::protobuf::Value& total = (*sum->mutable_attributes()->mutable_fields())[name];
    if (value.has_number_value())
      total.set_number_value(total.number_value() + value.number_value());
  }
}

void FillRank(uint32_t index, const pb::LoadInfo& load, pb::RankLoadInfo* rank) {
  rank->set_data_parallel_rank(index);
  rank->set_running_requests(load.running_requests());
  rank->set_queued_requests(load.queued_requests());
  rank->set_used_kv_blocks(load.used_kv_blocks());
  rank->set_total_kv_blocks(load.total_kv_blocks());
  rank->set_prefill_batch_size(load.prefill_batch_size());
  rank->set_decode_batch_size(load.decode_batch_size());
}

}  // namespace

CoordinatorControl::CoordinatorControl(CallRegistry& registry)
    : registry_(registry), instance_id_(RandomHex()) {}

grpc::ServerUnaryReactor* CoordinatorControl::GetServerInfo(
    grpc::CallbackServerContext* context, const pb::GetServerInfoRequest* /*request*/,
    pb::ServerInfo* response) {
  const std::vector<EnginePool::View> engines = Serving(registry_);
  if (engines.empty()) return Reply(context, NoneServes());
  *response = engines.front().server;
  response->set_instance_id(instance_id_);
  response->clear_supported_models();
  for (const EnginePool::View& engine : engines) {
    if (!absl::c_linear_search(response->supported_models(), engine.status.model())) {
      response->add_supported_models(engine.status.model());
    }
  }
  auto& extra = *response->mutable_extra()->mutable_fields();
  extra["coordinator"].set_bool_value(true);
  extra["engines"].set_number_value(static_cast<double>(engines.size()));
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* CoordinatorControl::GetModelInfo(grpc::CallbackServerContext* context,
                                                           const pb::GetModelInfoRequest* request,
                                                           pb::ModelInfo* response) {
  const std::vector<EnginePool::View> engines = Serving(registry_);
  if (engines.empty()) return Reply(context, NoneServes());
  for (const EnginePool::View& engine : engines) {
    if (!request->model().empty() && request->model() != engine.status.model()) continue;
    *response = engine.model;
    return Reply(context, absl::OkStatus());
  }
  constexpr size_t kShown = 256;
  return Reply(context, absl::NotFoundError(absl::StrCat(
                            "model \"", request->model().substr(0, kShown),
                            "\" is served by no engine; GetServerInfo lists those that are")));
}

grpc::ServerUnaryReactor* CoordinatorControl::GetLoad(grpc::CallbackServerContext* context,
                                                      const pb::GetLoadRequest* request,
                                                      pb::LoadInfo* response) {
  response->set_instance_id(instance_id_);
  response->set_timestamp_unix_nanos(absl::GetCurrentTimeNanos());
  response->set_active_kv_sessions(0);
  uint32_t index = 0;
  AddTo(pb::LoadInfo(), response);  // so that zeros are said
  for (const EnginePool::View& engine : Serving(registry_)) {
    AddTo(engine.load, response);
    if (request->include_per_rank()) FillRank(index++, engine.load, response->add_ranks());
  }
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* CoordinatorControl::Health(grpc::CallbackServerContext* context,
                                                     const pb::HealthRequest* request,
                                                     pb::HealthResponse* response) {
  if (request->include_inference_probe()) {
    return Reply(context, absl::UnimplementedError("include_inference_probe is not supported"));
  }
  pb::HealthState all = pb::HEALTH_STATE_STARTING;
  for (const EnginePool::View& engine : registry_.pool().Read()) {
    pb::HealthCheck& check = *response->add_checks();
    check.set_name(engine.status.target());
    check.set_state(engine.status.serving() ? pb::HEALTH_STATE_READY : pb::HEALTH_STATE_NOT_READY);
    if (engine.status.serving()) all = pb::HEALTH_STATE_READY;
    if (engine.status.times_lost() > 0 && all == pb::HEALTH_STATE_STARTING) {
      all = pb::HEALTH_STATE_NOT_READY;
    }
  }
  response->set_state(all);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* CoordinatorControl::Abort(grpc::CallbackServerContext* context,
                                                    const pb::AbortRequest* request,
                                                    pb::AbortResponse* response) {
  response->set_status(pb::ABORT_STATUS_ABORTED);
  switch (request->target_case()) {
    case pb::AbortRequest::kRequestId: {
      const absl::Status status = registry_.Abort(request->request_id());
      if (!status.ok()) {
        response->set_status(pb::ABORT_STATUS_ALREADY_FINISHED);
        response->set_message(std::string(status.message()));
      }
      return Reply(context, absl::OkStatus());
    }
    case pb::AbortRequest::kAllRequests:
      registry_.AbortAll();
      return Reply(context, absl::OkStatus());
    case pb::AbortRequest::kKvSession:
      return Reply(context, absl::UnimplementedError("kv_session is not supported"));
    case pb::AbortRequest::TARGET_NOT_SET:
      break;
  }
  return Reply(context,
               absl::InvalidArgumentError("one of request_id and all_requests must be set"));
}

}  // namespace polystrate
