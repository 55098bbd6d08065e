// GenerateReactor: one Generate call, from the engine's sink to the client's stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "engine/engine.h"
#include "engine/request.h"
#include "grpcpp/grpcpp.h"
#include "rpc/call_record.h"
#include "rpc/convert.h"
#include "rpc/event_queue.h"
#include "rpc/reader_watch.h"

namespace polystrate {

// Owns itself: it goes away when gRPC has called OnDone and, if the engine accepted the request,
// the engine has made its last call to the sink, whichever comes last.
//
// gRPC takes one write at a time. What the engine produces meanwhile waits in `events_`: the
// prompt's scores, and of tokens no more than kMaxWaitingBytes. A reader that lets more pile up, or
// takes nothing for a while (ReaderWatch), is given up.
class GenerateReactor final : public grpc::ServerWriteReactor<pb::GenerateResponse>,
                              public TokenSink {
 public:
  static constexpr int64_t kMaxWaitingBytes = 8 << 20;

  // All must outlive the call. Either Submit or Refuse has to follow.
  GenerateReactor(Engine& engine, ReaderWatch<GenerateReactor>& readers,
                  grpc::CallbackServerContext* context, CallRecord record);
  // What the client asks for, or why it cannot be had. Any thread, but one of gRPC's only if the
  // call has not begun.
  void Submit(absl::StatusOr<GenerationRequest> request);
  void Refuse(const absl::Status& status);

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

  // --- ReaderWatch, on its thread. ---
  // It keeps the reactor for as long as it works with it.
  void Retain() { ++owners_; }
  void Release();
  // The number of gRPC's operation that is under way, if one is.
  std::optional<uint64_t> PendingOperation() ABSL_LOCKS_EXCLUDED(mutex_);
  // Nothing more is kept for the reader, the engine ends the request, and so does the stream.
  void GiveUpReader(absl::Duration stalled);
  // The client need not take even that.
  void Break() ABSL_LOCKS_EXCLUDED(context_mutex_);

 private:
  ~GenerateReactor() override = default;

  // False: the client has gone already.
  bool BecomeLive() ABSL_LOCKS_EXCLUDED(mutex_);
  void Accepted() ABSL_LOCKS_EXCLUDED(mutex_);
  // The stream ends with `status` when all events are out; none come after it. The first caller's
  // status counts.
  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ended() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return end_.has_value(); }
  // Drops what waits: the stream ends with `status` after the write under way.
  void EndNow(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // An operation of gRPC's is over; the next may start.
  void OperationDone(bool ok) ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts the next write, or the end, if nothing is under way. Not under the mutex: gRPC may call
  // back from within.
  void Advance() ABSL_LOCKS_EXCLUDED(mutex_);

  Engine& engine_;
  ReaderWatch<GenerateReactor>& readers_;
  std::string request_id_;
  std::vector<int32_t> prompt_;  // its tokens that OnPrompt is going to be about
  CallRecord record_;            // only the engine's thread once it has the request
  RequestUsage usage_;           // the same
  std::atomic<int> owners_{1};   // gRPC, the engine from Submit on, and who has called Retain

  absl::Mutex context_mutex_;
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(context_mutex_);  // null when gRPC is done

  absl::Mutex mutex_;
  EventQueue events_ ABSL_GUARDED_BY(mutex_);
  pb::GenerateResponse writing_ ABSL_GUARDED_BY(mutex_);  // gRPC reads it until OnWriteDone
  // An operation of gRPC's is under way; from the start, so that nothing precedes acceptance.
  bool busy_ ABSL_GUARDED_BY(mutex_) = true;
  uint64_t num_operations_ ABSL_GUARDED_BY(mutex_) = 1;  // so far
  bool live_ ABSL_GUARDED_BY(mutex_) = false;            // the engine has the request
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
