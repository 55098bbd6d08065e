// Attempt: one try of a routed call at one engine: the client's side of a Generate call.
//
// Reads one event at a time and only when told to, so that a slow client holds up its own stream at
// the engine and nothing piles up here. Owns itself until gRPC is done with it; the call it belongs
// to outlives it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/coordinator/call_registry.h"
#include "rpc/coordinator/engine_pool.h"

namespace polystrate {

class RoutedCall;

// What goes along with the request to whichever engine gets it.
struct CallTerms {
  absl::Time deadline = absl::InfiniteFuture();
  std::vector<std::pair<std::string, std::string>> metadata;
};

class Attempt final : public grpc::ClientReadReactor<openengine::v1::GenerateResponse> {
 public:
  // Starts the call. None of gRPC's callbacks may run before the caller has stored what is
  // returned: they wait for Begin().
  // `losses`: CallRegistry's, from before the engine was picked.
  static std::shared_ptr<Attempt> Make(CallRegistry& registry, RoutedCall& call, EngineLease lease,
                                       uint64_t losses, openengine::v1::GenerateRequest request,
                                       const CallTerms& terms);
  void Begin();

  // Any thread, not under a lock that the call's methods take: gRPC may call back from within.
  void ReadNext();  // nothing when a read is under way already
  // The call has put the event that was read in its place; under the lock that orders its events,
  // for the next read may be over before this one's callback is.
  void EventTaken() { reading_ = false; }
  // The call wants nothing more of it, and hears no more but that it is done.
  void Abandon();

  EngineLease& lease() { return lease_; }
  uint64_t losses() const { return losses_; }
  const std::string& upstream_id() const { return request_.request_id(); }
  // The engine has taken the request: its answer's metadata came.
  bool accepted() const { return accepted_; }

  // --- ClientReadReactor, on gRPC's threads. ---
  void OnReadInitialMetadataDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  Attempt(CallRegistry& registry, RoutedCall& call, EngineLease lease, uint64_t losses,
          openengine::v1::GenerateRequest request, const CallTerms& terms);

  const CallRegistry::Presence presence_;  // first, so that it is the last to go
  RoutedCall& call_;
  EngineLease lease_;
  const uint64_t losses_;
  const openengine::v1::GenerateRequest request_;
  grpc::ClientContext context_;
  openengine::v1::GenerateResponse event_;
  // A read is under way, or its event not taken, or there is nothing more to read.
  std::atomic<bool> reading_{true};
  std::atomic<bool> accepted_{false};
  std::shared_ptr<Attempt> self_;  // until OnDone
};

}  // namespace polystrate
