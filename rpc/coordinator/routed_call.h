// RoutedCall: one client's Generate call, carried over the death of the engines that work on it.
//
// Towards the client a stream that is written to, towards an engine an Attempt. When the attempt
// breaks the request goes to another engine, with what the client has had (Delivery) and what makes
// its draws the same (its seed), or waits until one serves. An engine's verdict on the request
// itself (a field out of range, NaN logits) is the client's; so is one that every engine refuses.
//
// Owns itself: it goes away when gRPC has called OnDone, every attempt is done, and nobody retains
// it.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/call_record.h"
#include "rpc/coordinator/attempt.h"
#include "rpc/coordinator/call_registry.h"
#include "rpc/coordinator/delivery.h"

namespace polystrate {

class RoutedCall final : public grpc::ServerWriteReactor<openengine::v1::GenerateResponse> {
 public:
  // `request` is the client's, with an id; the registry must outlive the call. Start or Refuse has
  // to follow.
  RoutedCall(CallRegistry& registry, grpc::CallbackServerContext* context,
             openengine::v1::GenerateRequest request, CallTerms terms, std::string routing_key);
  void Start();
  void Refuse(const absl::Status& status);

  uint64_t number() const { return number_; }  // of this coordinator's calls
  const std::string& request_id() const { return request_.request_id(); }

  // --- Attempt, on gRPC's threads. ---
  void OnAccepted(Attempt* attempt);
  void OnEvent(Attempt* attempt, openengine::v1::GenerateResponse event);
  void OnAttemptDone(Attempt* attempt, const grpc::Status& status);

  // --- CallRegistry. ---
  void Retain() { ++owners_; }
  void Release();
  // Its engine had begun with it, and so may have been lost because of it.
  bool is_aboard() const ABSL_LOCKS_EXCLUDED(mutex_);
  void Wake();                                // WakeLater's time has come
  void LeaveEngine(const absl::Status& why);  // which is lost
  void Convict();                             // of ending engines
  void Abort();                               // by the operator or another call of the client's
  void EndNow(const absl::Status& status);

  // --- ReaderWatch, on its thread; as GenerateReactor's. ---
  std::optional<uint64_t> PendingOperation() ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveUpReader(absl::Duration stalled);
  void Break() ABSL_LOCKS_EXCLUDED(context_mutex_);

  // --- ServerWriteReactor, on gRPC's threads. ---
  void OnSendInitialMetadataDone(bool ok) override { OperationDone(ok); }
  void OnWriteDone(bool ok) override { OperationDone(ok); }
  void OnCancel() override;
  void OnDone() override;

 private:
  // Events that may wait for the client before the engine's stream is held up.
  static constexpr size_t kReadAhead = 8;

  ~RoutedCall() override = default;

  // To an engine, if one can be had; else waits for one, or ends. One thread at a time: whoever
  // took the call out of its attempt or out of its wait.
  void Go();
  // An engine that has not refused it and tries no other suspect. What Pick says, or the refusal.
  absl::StatusOr<EngineLease> Choose();
  // False: the engine was lost meanwhile (`losses`: CallRegistry's, from before it was picked).
  bool GoTo(EngineLease lease, uint64_t losses);
  openengine::v1::GenerateRequest NextRequest() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  RouteHint Hint() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The attempt there is over and the request is not.
  void Carry(const std::string& from, const absl::Status& why);
  void WaitForEngine(const absl::Status& why);
  // The engine says no for now: to the next, or to the client.
  void OnBusy(const std::string& target, const absl::Status& refusal);
  // The client is to have it.
  void Tell(openengine::v1::GenerateResponse event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeAccepted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndAborted() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // As the protocol has it: an error event once the client knows that the request was accepted.
  void Fail(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  void End(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); }
  void OperationDone(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts the next operation towards the client, if none is under way, and the next read from the
  // engine. Not under the mutex: gRPC may call back from within.
  void Advance() ABSL_LOCKS_EXCLUDED(mutex_);

  CallRegistry& registry_;
  const CallRegistry::Presence presence_{registry_};
  const uint64_t number_;
  const openengine::v1::GenerateRequest request_;
  const CallTerms terms_;
  const std::string routing_key_;
  const PrefixHashes prefix_;
  std::atomic<int> owners_{1};

  absl::Mutex context_mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(context_mutex_);  // null when gRPC is done

  mutable absl::Mutex mutex_;
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  Delivery delivery_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Attempt> attempt_
      ABSL_GUARDED_BY(mutex_);  // null: none, or its end is not awaited
  int num_attempts_ ABSL_GUARDED_BY(mutex_) = 0;
  int fruitless_ ABSL_GUARDED_BY(mutex_) = 0;          // attempts in a row without a new token
  int64_t tokens_before_ ABSL_GUARDED_BY(mutex_) = 0;  // this attempt
  bool cleared_ ABSL_GUARDED_BY(mutex_) = false;       // of suspicion, in this attempt
  bool aboard_ ABSL_GUARDED_BY(mutex_) = false;        // the engine of this attempt has accepted it
  bool must_go_on_ ABSL_GUARDED_BY(mutex_) = false;    // an engine had it, so another is waited for
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  std::string avoid_ ABSL_GUARDED_BY(mutex_);                     // where it was last
  std::vector<std::string> refused_ ABSL_GUARDED_BY(mutex_);      // targets that are busy
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);                  // the last of those
  std::optional<absl::Time> wait_until_ ABSL_GUARDED_BY(mutex_);  // for an engine
  std::deque<openengine::v1::GenerateResponse> ready_ ABSL_GUARDED_BY(mutex_);  // for the client
  openengine::v1::GenerateResponse writing_
      ABSL_GUARDED_BY(mutex_);                     // gRPC reads it until OnWriteDone
  bool accepted_ ABSL_GUARDED_BY(mutex_) = false;  // by an engine, once
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;    // the client has been told so
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;      // an operation towards the client is under way
  uint64_t num_operations_ ABSL_GUARDED_BY(mutex_) = 0;  // so far
  bool registered_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
