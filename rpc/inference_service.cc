#include "rpc/inference_service.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/admission.h"
#include "engine/tokenizer.h"
#include "kernels/core/status.h"
#include "rpc/convert.h"
#include "rpc/deadline.h"
#include "rpc/generate_reactor.h"
#include "rpc/request_extra.h"
#include "rpc/unary_reply.h"

namespace polystrate {
namespace {

// Texts, and tokens to resume after, that take about a millisecond, and more: request_readers_
// reads them.
constexpr int64_t kLongText = 16 << 10;
constexpr int kNumRequestReaders = 2;

absl::StatusOr<int32_t> PriorityOf(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("openengine-priority");
  if (found == metadata.end()) return 0;
  const absl::string_view text(found->second.data(), found->second.size());
  int32_t priority = 0;
  if (absl::SimpleAtoi(text, &priority)) return priority;
  return absl::InvalidArgumentError(
      absl::StrCat("metadata openengine-priority is \"", text.substr(0, 32),
                   "\"; it must be an integer of 32 bits, and the higher, the more urgent"));
}

int64_t LongestToken(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id).size());
  }
  return static_cast<int64_t>(longest);
}

}  // namespace

InferenceService::InferenceService(Engine& engine, RequestLog* log)
    : engine_(engine),
      log_(log),
      id_prefix_(absl::StrCat("gen-", RandomHex(), "-")),
      max_token_bytes_(engine.tokenizer() == nullptr ? 0 : LongestToken(*engine.tokenizer())),
      request_readers_(kNumRequestReaders) {}

std::string InferenceService::NewRequestId() { return absl::StrCat(id_prefix_, ++num_ids_); }

absl::Status InferenceService::CheckNow(absl::Time deadline) const {
  if (!accepting_ && engine_.state() == EngineState::kStarting) {
    return absl::UnavailableError("the engine is starting: its ranks still read their weights");
  }
  return engine_.CheckNow(deadline);
}

int64_t InferenceService::MaxPromptTokens() const {
  return engine_.options().max_model_len + 1;  // the last one may be scored alone
}

int64_t InferenceService::MaxRequestBytes() const {
  constexpr int64_t kOtherFields = 1 << 20;
  constexpr int64_t kIdBytes = 5;  // of a varint
  constexpr int64_t kLeast = 4 << 20;
  // What has come of one output; of several that is not so little, as parsed it takes many times
  // as much.
  constexpr int64_t kMostOfSeveral = 4 << 20;
  const int64_t of_one = MaxPromptTokens() * kResumedTokenBytes;
  const int64_t of_all = MaxNumSequences(engine_.options()) * of_one;
  const int64_t resumed = std::max(of_one, std::min(of_all, kMostOfSeveral));
  const int64_t prompt = MaxPromptTokens() * std::max(max_token_bytes_, kIdBytes);
  return std::max(prompt + resumed + kOtherFields, kLeast);
}

absl::Status InferenceService::CheckPromptSize(const pb::GenerateRequest& request) const {
  const int64_t most = MaxPromptTokens();
  const int64_t ids = request.token_ids().ids_size();
  if (ids > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", ids, " tokens; the context is ", most - 1));
  }
  const auto bytes = static_cast<int64_t>(request.prompt().size());
  if (max_token_bytes_ == 0 || bytes <= most * max_token_bytes_) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the prompt has ", bytes, " bytes; with a context of ", most - 1, " tokens of at most ",
      max_token_bytes_, " bytes it may have ", most * max_token_bytes_));
}

absl::StatusOr<GenerationRequest> InferenceService::Read(const pb::GenerateRequest& wire,
                                                         const CallTerms& terms) {
  ASSIGN_OR_RETURN(GenerationRequest request,
                   FromWire(wire, engine_.options().model_id, engine_.tokenizer()));
  if (request.request_id.empty()) request.request_id = NewRequestId();
  request.deadline = terms.deadline;
  request.priority = terms.priority;
  return request;
}

grpc::ServerWriteReactor<pb::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const pb::GenerateRequest* request) {
  auto* reactor = new GenerateReactor(  // owns itself
      engine_, reader_watch_, context, CallRecord(log_, *context, *request));
  if (const absl::Status status = Begin(*context, *request, reactor); !status.ok()) {
    reactor->Refuse(status);
  }
  return reactor;
}

absl::Status InferenceService::Begin(const grpc::CallbackServerContext& context,
                                     const pb::GenerateRequest& request, GenerateReactor* reactor) {
  CallTerms terms;
  terms.deadline = DeadlineOf(context);
  // What is refused for what the engine does just now costs no more than this.
  RETURN_IF_ERROR(CheckNow(terms.deadline));
  ASSIGN_OR_RETURN(terms.priority, PriorityOf(context));
  RETURN_IF_ERROR(CheckPromptSize(request));
  const auto bytes = static_cast<int64_t>(request.prompt().size() + request.extra().ByteSizeLong());
  if (bytes > kLongText) {
    return request_readers_.Add(bytes, [this, &request, terms, reactor] {
      const absl::Status status = CheckNow(terms.deadline);
      reactor->Submit(status.ok() ? Read(request, terms) : status);
    });
  }
  reactor->Submit(Read(request, terms));
  return absl::OkStatus();
}

}  // namespace polystrate
