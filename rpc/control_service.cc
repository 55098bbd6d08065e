#include "rpc/control_service.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/admission.h"
#include "kernels/core/status.h"
#include "rpc/convert.h"
#include "rpc/unary_reply.h"

namespace polystrate {
namespace {

// The revision of the public protocol that openengine.proto follows, and the commit of its
// repository.
constexpr uint32_t kSchemaRevision = 1;
constexpr char kSchemaRelease[] = "4def7c5";

void FillLogprobs(pb::LogprobCapabilities* logprobs) {
  logprobs->set_supported(true);
  logprobs->add_candidate_selection_modes(pb::CANDIDATE_TOKEN_SELECTION_MODE_TOP_N);
  logprobs->set_max_top_n(kMaxCandidates);
}

void FillGeneration(const EngineOptions& options, pb::GenerationCapabilities* generation) {
  FillLogprobs(generation->mutable_prompt_logprobs());
  FillLogprobs(generation->mutable_output_logprobs());
  generation->mutable_guided_decoding()->set_supported(false);
  generation->set_max_num_sequences(static_cast<uint32_t>(MaxNumSequences(options)));
  generation->set_supports_priority(true);
  generation->set_supports_stop_in_output(true);
  generation->set_supports_cache_salt(true);
  generation->set_supports_prefix_cache_bypass(true);
}

using Fields = google::protobuf::Map<std::string, google::protobuf::Value>;

// What those need who make up token ids, or prompts of chats.
void FillExtra(const EngineOptions& options, Fields* extra) {
  (*extra)["vocab_size"].set_number_value(options.vocab_size);
  auto& eos = *(*extra)["eos_token_ids"].mutable_list_value();
  for (const int32_t id : options.eos_token_ids) eos.add_values()->set_number_value(id);
  const TokenizerConfig& config = options.tokenizer_config;
  if (config.chat_template) (*extra)["chat_template"].set_string_value(*config.chat_template);
  if (config.bos_token) (*extra)["bos_token"].set_string_value(*config.bos_token);
  if (config.eos_token) (*extra)["eos_token"].set_string_value(*config.eos_token);
}

// Counted since the start, so that who looks twice can tell how fast they grow.
void FillAttributes(const EngineStats& stats, Fields* attributes) {
  const auto set = [attributes](const char* key, int64_t count) {
    (*attributes)[key].set_number_value(static_cast<double>(count));
  };
  set("generation_tokens", stats.generation_tokens);
  set("prompt_tokens", stats.prompt_tokens);
  set("cached_prompt_tokens", stats.prefix_cache_hits);
  set("preemptions", stats.preemptions);
  set("requests_finished",
      std::accumulate(stats.requests.begin(), stats.requests.end(), int64_t{0}));
}

absl::Status CheckHealthRequest(const pb::HealthRequest& request, const std::string& model_id) {
  RETURN_IF_ERROR(CheckModel(request.model(), model_id));
  if (request.include_inference_probe()) {
    return absl::UnimplementedError("include_inference_probe is not supported");
  }
  if (request.role() != pb::ENGINE_ROLE_UNSPECIFIED &&
      request.role() != pb::ENGINE_ROLE_AGGREGATED) {
    return absl::UnimplementedError("role other than ENGINE_ROLE_AGGREGATED is not supported");
  }
  return absl::OkStatus();
}

absl::Status AbortTarget(Engine& engine, const pb::AbortRequest& request,
                         pb::AbortResponse* response) {
  response->set_status(pb::ABORT_STATUS_ABORTED);
  switch (request.target_case()) {
    case pb::AbortRequest::kRequestId:
      if (!engine.Cancel(request.request_id()).ok()) {
        response->set_status(pb::ABORT_STATUS_ALREADY_FINISHED);
        response->set_message("no live request has this id");
      }
      return absl::OkStatus();
    case pb::AbortRequest::kAllRequests:
      engine.CancelAll();
      return absl::OkStatus();
    case pb::AbortRequest::kKvSession:
      return absl::UnimplementedError("kv_session is not supported");
    case pb::AbortRequest::TARGET_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("one of request_id and all_requests must be set");
}

}  // namespace

ControlService::ControlService(Engine& engine) : engine_(engine), instance_id_(RandomHex()) {}

grpc::ServerUnaryReactor* ControlService::GetServerInfo(grpc::CallbackServerContext* context,
                                                        const pb::GetServerInfoRequest* /*request*/,
                                                        pb::ServerInfo* response) {
  const EngineOptions& options = engine_.options();
  response->set_engine_name("polystrate");
  response->set_engine_version(POLYSTRATE_VERSION);
  response->set_engine_role(pb::ENGINE_ROLE_AGGREGATED);
  response->set_instance_id(instance_id_);
  response->add_supported_models(options.model_id);
  response->set_schema_revision(kSchemaRevision);
  response->set_minimum_client_revision(kSchemaRevision);
  response->set_schema_release(kSchemaRelease);
  response->mutable_kv_connector()->set_enabled(false);

  pb::ParallelismInfo& parallelism = *response->mutable_parallelism();
  parallelism.set_tensor_parallel_size(options.parallel.tp_size);
  parallelism.set_pipeline_parallel_size(options.parallel.pp_size);
  parallelism.set_data_parallel_size(1);
  parallelism.set_data_parallel_rank(0);
  parallelism.set_data_parallel_start_rank(0);
  parallelism.set_decode_context_parallel_size(1);

  pb::DeploymentCapacity& capacity = *response->mutable_capacity();
  capacity.set_kv_block_size(static_cast<uint32_t>(options.block_size));
  capacity.set_total_kv_blocks(options.num_blocks);
  capacity.set_max_running_requests(options.max_num_seqs);
  capacity.set_max_batched_tokens(options.max_num_batched_tokens);
  capacity.set_max_loras(0);
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetModelInfo(grpc::CallbackServerContext* context,
                                                       const pb::GetModelInfoRequest* request,
                                                       pb::ModelInfo* response) {
  const EngineOptions& options = engine_.options();
  const absl::Status status = CheckModel(request->model(), options.model_id);
  if (!status.ok()) return Reply(context, status);
  response->set_model_id(options.model_id);
  response->set_served_model_name(options.model_id);
  response->set_max_context_length(static_cast<uint32_t>(options.max_model_len));
  // A prompt has a token at least.
  response->set_max_output_tokens(static_cast<uint32_t>(options.max_model_len - 1));
  response->set_supports_text_input(engine_.tokenizer() != nullptr);
  response->set_supports_token_ids_input(true);
  FillGeneration(options, response->mutable_generation());
  response->set_supports_lora(false);
  response->set_supports_multimodal(false);
  FillExtra(options, response->mutable_extra()->mutable_fields());
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::GetLoad(grpc::CallbackServerContext* context,
                                                  const pb::GetLoadRequest* request,
                                                  pb::LoadInfo* response) {
  const EngineLoad load = engine_.load();
  response->set_instance_id(instance_id_);
  response->set_timestamp_unix_nanos(absl::GetCurrentTimeNanos());
  response->set_running_requests(static_cast<uint32_t>(load.running_requests));
  response->set_queued_requests(static_cast<uint32_t>(load.queued_requests));
  response->set_active_kv_sessions(0);
  response->set_used_kv_blocks(load.used_blocks);
  response->set_total_kv_blocks(load.total_blocks);
  response->set_running_tokens(load.running_tokens);
  response->set_waiting_tokens(load.waiting_tokens);
  response->set_prefill_batch_size(static_cast<uint32_t>(load.prefill_batch_size));
  response->set_decode_batch_size(static_cast<uint32_t>(load.decode_batch_size));
  FillAttributes(engine_.stats(), response->mutable_attributes()->mutable_fields());
  if (request->include_per_rank()) {
    pb::RankLoadInfo& rank = *response->add_ranks();
    rank.set_data_parallel_rank(0);
    rank.set_running_requests(response->running_requests());
    rank.set_queued_requests(response->queued_requests());
    rank.set_used_kv_blocks(load.used_blocks);
    rank.set_total_kv_blocks(load.total_blocks);
    rank.set_prefill_batch_size(response->prefill_batch_size());
    rank.set_decode_batch_size(response->decode_batch_size());
  }
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::Health(grpc::CallbackServerContext* context,
                                                 const pb::HealthRequest* request,
                                                 pb::HealthResponse* response) {
  const absl::Status status = CheckHealthRequest(*request, engine_.options().model_id);
  if (!status.ok()) return Reply(context, status);
  response->set_state(ToWire(engine_.state()));
  pb::HealthCheck& grpc_check = *response->add_checks();
  grpc_check.set_name("grpc");
  grpc_check.set_state(pb::HEALTH_STATE_READY);
  pb::HealthCheck& model_check = *response->add_checks();
  model_check.set_name("model");
  model_check.set_state(response->state());
  return Reply(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ControlService::Abort(grpc::CallbackServerContext* context,
                                                const pb::AbortRequest* request,
                                                pb::AbortResponse* response) {
  return Reply(context, AbortTarget(engine_, *request, response));
}

}  // namespace polystrate
