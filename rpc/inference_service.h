// InferenceService: openengine.v1.Inference over an engine. Callback API: every method returns at
// once, and output is written as the engine makes it and the reader takes it.
#pragma once

#include <atomic>
#include <string>

#include "engine/engine.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

class InferenceService final : public openengine::v1::Inference::CallbackService {
 public:
  // `engine` must outlive the service and every stream.
  explicit InferenceService(Engine& engine);

  // Until then Generate is answered UNAVAILABLE. Whether the engine is draining it says itself.
  void StartAccepting() { accepting_ = true; }

  grpc::ServerWriteReactor<openengine::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context,
      const openengine::v1::GenerateRequest* request) override;

 private:
  std::string NewRequestId();

  Engine& engine_;
  const std::string id_prefix_;  // of the ids that this process makes
  std::atomic<uint64_t> num_ids_{0};
  std::atomic<bool> accepting_{false};
};

}  // namespace polystrate
