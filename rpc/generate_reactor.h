// GenerateReactor: one Generate call, from the engine's sink to the client's stream.
#pragma once

#include <atomic>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "grpcpp/grpcpp.h"
#include "rpc/convert.h"

namespace polystrate {

// Owns itself: it goes away when gRPC has called OnDone and, if the engine accepted the request,
// the engine has made its last call to the sink, whichever comes last.
//
// gRPC takes one write at a time. What the engine produces meanwhile waits in `events_`, where
// token deltas merge into one for each output: at most a prompt, and of each output a delta and its
// end wait, and they hold no more than the request's own prompt and max_tokens.
class GenerateReactor final : public grpc::ServerWriteReactor<pb::GenerateResponse>,
                              public TokenSink {
 public:
  // `request` is what `context`'s client asks for, or why it cannot be had.
  static GenerateReactor* Start(Engine& engine, grpc::CallbackServerContext* context,
                                absl::StatusOr<GenerationRequest> request);

  // --- TokenSink, on the engine's thread. ---
  void OnPrompt(const std::vector<PromptScore>& scores) override;
  void OnToken(const TokenInfo& token) override;
  void OnFinished(const Finished& finished) override;
  void OnError(const absl::Status& status) override;

  // --- ServerWriteReactor, on gRPC's threads. ---
  void OnSendInitialMetadataDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  explicit GenerateReactor(Engine& engine) : engine_(engine) {}
  ~GenerateReactor() override = default;

  void Submit(GenerationRequest request);
  void SetLive(bool live) ABSL_LOCKS_EXCLUDED(mutex_);
  // The event to add to: one that waits and carries tokens of this output, else a new one.
  pb::TokenOutput& Tokens(int32_t output_index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  pb::GenerateResponse& NewEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The stream ends with `status` when all events are out. The first caller's status counts.
  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An operation of gRPC's is over; the next may start.
  void OperationDone(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts the next write, or the end, if nothing is under way. Not under the mutex: gRPC may call
  // back from within.
  void Advance() ABSL_LOCKS_EXCLUDED(mutex_);
  void Release();

  Engine& engine_;
  std::string request_id_;
  std::vector<int32_t> prompt_;  // its tokens that OnPrompt is going to be about
  RequestUsage usage_;           // only the engine's thread
  std::atomic<int> owners_{1};   // gRPC, and the engine from Submit on

  absl::Mutex mutex_;
  std::deque<pb::GenerateResponse> events_ ABSL_GUARDED_BY(mutex_);
  pb::GenerateResponse writing_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it until OnWriteDone
  // An operation of gRPC's is under way; from the start, so that nothing precedes acceptance.
  bool busy_ ABSL_GUARDED_BY(mutex_) = true;
  bool live_ ABSL_GUARDED_BY(mutex_) = false;  // the engine has the request
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
