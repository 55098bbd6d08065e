#include "rpc/coordinator/coordinator_inference.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "rpc/convert.h"
#include "rpc/coordinator/routed_call.h"
#include "rpc/deadline.h"
#include "rpc/unary_reply.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// What an engine makes of a request beside its message.
constexpr const char* kForwarded[] = {"openengine-priority", "traceparent", "tracestate"};

std::string Metadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(key);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

CallTerms TermsOf(const grpc::CallbackServerContext& context) {
  CallTerms terms;
  terms.deadline = DeadlineOf(context);
  for (const char* key : kForwarded) {
    std::string value = Metadata(context, key);
    if (!value.empty()) terms.metadata.emplace_back(key, std::move(value));
  }
  return terms;
}

}  // namespace

CoordinatorInference::CoordinatorInference(CallRegistry& registry)
    : registry_(registry), id_prefix_(absl::StrCat("gen-", RandomHex(), "-")) {}

grpc::ServerWriteReactor<pb::GenerateResponse>* CoordinatorInference::Generate(
    grpc::CallbackServerContext* context, const pb::GenerateRequest* wire) {
  pb::GenerateRequest request = *wire;
  const absl::Status status = CheckRequestId(request.request_id());
  // An id that cannot be told cannot be echoed either.
  if (request.request_id().empty() || !status.ok()) {
    request.set_request_id(absl::StrCat(id_prefix_, ++num_ids_));
  }
  // Every engine that works on the request must draw the same.
  if (!request.sampling().has_seed()) request.mutable_sampling()->set_seed(Random64());
  auto* call = new RoutedCall(registry_, context, std::move(request), TermsOf(*context),
                              Metadata(*context, "openengine-routing-key"));  // owns itself
  if (status.ok()) {
    call->Start();
  } else {
    call->Refuse(status);
  }
  return call;
}

}  // namespace polystrate
