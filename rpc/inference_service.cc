#include "rpc/inference_service.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "rpc/generate_reactor.h"

namespace polystrate {
namespace {

std::string RandomHex() {
  std::random_device device;
  return absl::StrFormat("%08x%08x", device(), device());
}

absl::Status CheckDeadline(const grpc::CallbackServerContext& context) {
  if (absl::FromChrono(context.deadline()) > absl::Now()) return absl::OkStatus();
  return absl::DeadlineExceededError("the deadline had passed when the request arrived");
}

}  // namespace

InferenceService::InferenceService(Engine& engine)
    : engine_(engine), id_prefix_(absl::StrCat("gen-", RandomHex(), "-")) {}

std::string InferenceService::NewRequestId() { return absl::StrCat(id_prefix_, ++num_ids_); }

grpc::ServerWriteReactor<pb::GenerateResponse>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const pb::GenerateRequest* request) {
  absl::Status status = CheckDeadline(*context);
  if (status.ok() && !accepting_ && engine_.state() == EngineState::kStarting) {
    status = absl::UnavailableError("the engine is starting: its ranks still read their weights");
  }
  if (!status.ok()) return GenerateReactor::Start(engine_, context, status);
  auto generation = FromWire(*request, engine_.options().model_id, engine_.tokenizer());
  if (generation.ok() && generation->request_id.empty()) generation->request_id = NewRequestId();
  return GenerateReactor::Start(engine_, context, std::move(generation));
}

}  // namespace polystrate
