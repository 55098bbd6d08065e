// InferenceService: openengine.v1.Inference over an engine. Callback API: every method returns at
// once, and output is written as the engine makes it and the reader takes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "openengine.grpc.pb.h"
#include "rpc/reader_watch.h"
#include "rpc/request_log.h"
#include "rpc/request_readers.h"

namespace polystrate {

class GenerateReactor;

class InferenceService final : public openengine::v1::Inference::CallbackService {
 public:
  // `engine` and `log`, which may be null, must outlive the service and every stream.
  InferenceService(Engine& engine, RequestLog* log);

  // Once, before StartAccepting.
  void WatchReaders(absl::Duration timeout) { reader_watch_.Start(timeout); }
  // Of any request that could be accepted, and at least gRPC's own default, 4 MiB.
  int64_t MaxRequestBytes() const;
  void WaitForStreams(absl::Time deadline) { reader_watch_.WaitForNone(deadline); }
  // Until then Generate is answered UNAVAILABLE. Whether the engine is draining it says itself.
  void StartAccepting() { accepting_ = true; }

  grpc::ServerWriteReactor<openengine::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const openengine::v1::GenerateRequest* request) override;

 private:
  // What a call says beside its request.
  struct CallTerms {
    absl::Time deadline = absl::InfiniteFuture();
    int32_t priority = 0;
  };

  std::string NewRequestId();
  // The reactor is on its way when this is OK; otherwise the call is to be refused.
  absl::Status Begin(const grpc::CallbackServerContext& context,
                     const openengine::v1::GenerateRequest& request, GenerateReactor* reactor);
  absl::Status CheckNow(absl::Time deadline) const;
  int64_t MaxPromptTokens() const;
  // INVALID_ARGUMENT when the prompt has more tokens than the context, as far as that can be seen
  // without tokenising it.
  absl::Status CheckPromptSize(const openengine::v1::GenerateRequest& request) const;
  absl::StatusOr<GenerationRequest> Read(const openengine::v1::GenerateRequest& wire,
                                         const CallTerms& terms);

  Engine& engine_;
  RequestLog* const log_;
  const std::string id_prefix_;  // of the ids that this process makes
  std::atomic<uint64_t> num_ids_{0};
  std::atomic<bool> accepting_{false};
  const int64_t max_token_bytes_;  // of the vocabulary; 0 without a tokenizer
  ReaderWatch<GenerateReactor> reader_watch_;
  RequestReaders request_readers_;
};

}  // namespace polystrate
