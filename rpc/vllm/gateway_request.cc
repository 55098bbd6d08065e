#include "rpc/vllm/gateway_request.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int32_t kWholeVocabulary = -1;  // of logprobs
constexpr int32_t kDrawnSeed = -1;

// Null: none, or one that constrains nothing.
const char* ConstraintOf(const gateway::SamplingParams& wire) {
  switch (wire.constraint_case()) {
    case gateway::SamplingParams::kJsonSchema:
      return "json_schema";
    case gateway::SamplingParams::kRegex:
      return "regex";
    case gateway::SamplingParams::kGrammar:
      return "grammar";
    case gateway::SamplingParams::kStructuralTag:
      return "structural_tag";
    case gateway::SamplingParams::kJsonObject:
      return wire.json_object() ? "json_object" : nullptr;
    case gateway::SamplingParams::kChoice:
      return "choice";
    case gateway::SamplingParams::CONSTRAINT_NOT_SET:
      break;
  }
  return nullptr;
}

const char* Unsupported(const gateway::GenerateRequest& wire) {
  if (wire.has_kv_transfer_params()) return "kv_transfer_params";
  if (!wire.kv_transfer_params_json().empty()) return "kv_transfer_params_json";
  if (wire.has_mm_inputs()) return "mm_inputs";
  if (wire.data_parallel_rank() != 0) return "data_parallel_rank";
  const gateway::SamplingParams& sampling = wire.sampling_params();
  if (sampling.logit_bias_size() > 0) return "logit_bias";
  if (sampling.has_truncate_prompt_tokens()) return "truncate_prompt_tokens";
  return ConstraintOf(sampling);
}

pb::SamplingParams Sampling(const gateway::SamplingParams& wire) {
  pb::SamplingParams sampling;
  if (wire.has_temperature()) sampling.set_temperature(wire.temperature());
  if (wire.top_p() != 0.0f) sampling.set_top_p(wire.top_p());
  sampling.set_top_k(
      static_cast<int32_t>(std::min<uint32_t>(wire.top_k(), std::numeric_limits<int32_t>::max())));
  sampling.set_min_p(wire.min_p());
  sampling.set_frequency_penalty(wire.frequency_penalty());
  sampling.set_presence_penalty(wire.presence_penalty());
  if (wire.repetition_penalty() != 0.0f) {
    sampling.set_repetition_penalty(wire.repetition_penalty());
  }
  if (wire.has_seed() && wire.seed() != kDrawnSeed) {
    sampling.set_seed(static_cast<uint64_t>(int64_t{wire.seed()}));
  }
  sampling.set_num_sequences(std::max(wire.n(), 1u));
  return sampling;
}

pb::StoppingOptions Stopping(const gateway::SamplingParams& wire) {
  pb::StoppingOptions stopping;
  if (wire.has_max_tokens()) stopping.set_max_tokens(wire.max_tokens());
  stopping.set_min_tokens(wire.min_tokens());
  for (const std::string& text : wire.stop()) stopping.add_conditions()->set_stop_text(text);
  for (const uint32_t id : wire.stop_token_ids()) {
    stopping.add_conditions()->set_stop_token_id(id);
  }
  stopping.set_ignore_eos(wire.ignore_eos());
  stopping.set_include_stop_in_output(wire.include_stop_str_in_output());
  return stopping;
}

absl::StatusOr<uint32_t> TopN(const char* field, int32_t wanted) {
  if (wanted >= 0) return static_cast<uint32_t>(wanted);
  if (wanted == kWholeVocabulary) {
    return absl::UnimplementedError(
        absl::StrCat(field, " -1, the whole vocabulary's, is not supported"));
  }
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", wanted, "; it must be at least 0"));
}

absl::StatusOr<pb::ResponseOptions> Scores(const gateway::SamplingParams& wire) {
  pb::ResponseOptions response;
  if (wire.has_logprobs()) {
    ASSIGN_OR_RETURN(const uint32_t top_n, TopN("logprobs", wire.logprobs()));
    response.set_return_output_logprobs(true);
    response.mutable_output_candidates()->set_top_n(top_n);
  }
  if (wire.has_prompt_logprobs()) {
    ASSIGN_OR_RETURN(const uint32_t top_n, TopN("prompt_logprobs", wire.prompt_logprobs()));
    response.set_return_prompt_logprobs(true);
    response.mutable_prompt_candidates()->set_top_n(top_n);
  }
  return response;
}

}  // namespace

absl::StatusOr<pb::GenerateRequest> FromGateway(const gateway::GenerateRequest& wire) {
  if (const char* field = Unsupported(wire); field != nullptr) {
    return absl::UnimplementedError(absl::StrCat(field, " is not supported"));
  }
  pb::GenerateRequest request;
  request.set_request_id(wire.request_id());
  *request.mutable_sampling() = Sampling(wire.sampling_params());
  *request.mutable_stopping() = Stopping(wire.sampling_params());
  ASSIGN_OR_RETURN(*request.mutable_response(), Scores(wire.sampling_params()));
  switch (wire.input_case()) {
    case gateway::GenerateRequest::kTokenized:
      *request.mutable_token_ids()->mutable_ids() = wire.tokenized().input_ids();
      return request;
    case gateway::GenerateRequest::kText:
      request.set_prompt(wire.text());
      return request;
    case gateway::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("one of tokenized and text must be set");
}

}  // namespace polystrate
