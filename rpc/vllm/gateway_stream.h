// GatewayStream: one Generate call of vllm.grpc.engine, which becomes one of openengine.v1.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"
#include "rpc/reader_watch.h"
#include "rpc/vllm/gateway_answer.h"
#include "rpc/vllm/live_calls.h"

namespace polystrate {

// Owns itself: it goes away when gRPC has called OnDone on both sides and nobody retains it.
//
// An event is read from the engine's side only when the one before has been taken by the gateway,
// so that a slow one holds up the engine's stream and no more.
class GatewayStream final : public grpc::ServerWriteReactor<gateway::GenerateResponse> {
 public:
  // All must outlive the call. Either Start or Refuse has to follow.
  GatewayStream(LiveCalls& calls, ReaderWatch<GatewayStream>& readers,
                grpc::CallbackServerContext* context, const gateway::GenerateRequest& request);
  void Start(pb::Inference::Stub& engine, const pb::GenerateRequest& request);
  void Refuse(const absl::Status& status);

  // --- ServerWriteReactor, on gRPC's threads. ---
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // --- ReaderWatch, on its thread; as GenerateReactor's. ---
  void Retain() { ++owners_; }
  void Release();
  std::optional<uint64_t> PendingOperation() ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveUpReader(absl::Duration stalled);
  void Break() ABSL_LOCKS_EXCLUDED(context_mutex_);

 private:
  class Upstream;  // the engine's side

  ~GatewayStream() override;

  // --- Upstream, on gRPC's threads. ---
  void PassMetadataBack() ABSL_LOCKS_EXCLUDED(context_mutex_);
  void OnEvent(const pb::GenerateResponse& event) ABSL_LOCKS_EXCLUDED(mutex_);
  void OnUpstreamDone(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  bool ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); }
  // Drops what waits, and the engine its request.
  void EndNow(const grpc::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts the next operation towards the gateway, and the next read from the engine. Not under the
  // mutex: gRPC may call back from within.
  void Advance() ABSL_LOCKS_EXCLUDED(mutex_);
  void ReadNext() ABSL_LOCKS_EXCLUDED(mutex_);

  const LiveCalls::Call call_;  // upstream_'s
  ReaderWatch<GatewayStream>& readers_;
  std::unique_ptr<Upstream> upstream_;  // null when the call was refused
  bool begun_ = false;                  // an event has come; only who reads from the engine
  std::atomic<int> owners_{1};          // gRPC on either side, and who has called Retain

  absl::Mutex context_mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(context_mutex_);  // null when gRPC is done

  absl::Mutex mutex_;
  GatewayAnswer answer_ ABSL_GUARDED_BY(mutex_);
  std::deque<gateway::GenerateResponse> ready_ ABSL_GUARDED_BY(mutex_);
  gateway::GenerateResponse writing_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it until OnWriteDone
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;                  // writes, or ends
  uint64_t num_operations_ ABSL_GUARDED_BY(mutex_) = 0;        // so far
  // A read is under way, or none can be: before the engine's first word and after its last.
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
