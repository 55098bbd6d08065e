#include "rpc/coordinator/attempt.h"

#include "rpc/coordinator/routed_call.h"

namespace polystrate {

namespace pb = openengine::v1;

Attempt::Attempt(CallRegistry& registry, RoutedCall& call, EngineLease lease, uint64_t losses,
                 pb::GenerateRequest request, const CallTerms& terms)
    : presence_(registry),
      call_(call),
      lease_(std::move(lease)),
      losses_(losses),
      request_(std::move(request)) {
  if (terms.deadline != absl::InfiniteFuture()) {
    context_.set_deadline(absl::ToChronoTime(terms.deadline));
  }
  for (const auto& [key, value] : terms.metadata) context_.AddMetadata(key, value);
}

std::shared_ptr<Attempt> Attempt::Make(CallRegistry& registry, RoutedCall& call, EngineLease lease,
                                       uint64_t losses, pb::GenerateRequest request,
                                       const CallTerms& terms) {
  std::shared_ptr<Attempt> attempt(
      new Attempt(registry, call, std::move(lease), losses, std::move(request), terms));
  attempt->self_ = attempt;
  return attempt;
}

void Attempt::Begin() {
  lease_.inference().async()->Generate(&context_, &request_, this);
  AddHold();  // reads start from other threads than gRPC's
  StartRead(&event_);
  StartCall();
}

void Attempt::ReadNext() {
  if (!reading_.exchange(true)) StartRead(&event_);
}

void Attempt::Abandon() {
  context_.TryCancel();
  ReadNext();  // to its end
}

void Attempt::OnReadInitialMetadataDone(bool ok) {
  // A refusal has no metadata of its own, only trailers.
  if (!ok || context_.GetServerInitialMetadata().count("openengine-request-id") == 0) return;
  accepted_ = true;
  call_.OnAccepted(this);
}

void Attempt::OnReadDone(bool ok) {
  if (!ok) return RemoveHold();
  pb::GenerateResponse event = std::move(event_);
  event_.Clear();
  accepted_ = true;
  call_.OnEvent(this, std::move(event));
}

void Attempt::OnDone(const grpc::Status& status) {
  // The call may go away in there, and this with it, were it not for the copy.
  const std::shared_ptr<Attempt> self = std::move(self_);
  call_.OnAttemptDone(this, status);
}

}  // namespace polystrate
