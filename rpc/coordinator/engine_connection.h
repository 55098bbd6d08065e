// EngineConnection: one channel to an engine and the calls that watch it. Whoever streams over it
// may keep it for longer than the pool does.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/grpcpp.h"
#include "health.grpc.pb.h"
#include "openengine.grpc.pb.h"
#include "polystrate_admin.grpc.pb.h"
#include "rpc/connector.h"

namespace polystrate {

class EngineConnection : public std::enable_shared_from_this<EngineConnection> {
 public:
  // Connects with the first call.
  EngineConnection(const Connector& connector, const std::string& target);

  openengine::v1::Inference::Stub& inference() { return inference_; }
  openengine::v1::Control::Stub& control() { return control_; }

  // Each starts a call and returns; the answer comes on a thread of gRPC's, possibly before that,
  // so no lock may be held that it takes. A call keeps the connection.
  template <typename Response>
  using OnAnswer = std::function<void(const grpc::Status&, const Response&)>;
  void GetServerInfo(absl::Duration timeout, OnAnswer<openengine::v1::ServerInfo> on_answer);
  void GetModelInfo(absl::Duration timeout, OnAnswer<openengine::v1::ModelInfo> on_answer);
  void GetLoad(absl::Duration timeout, OnAnswer<openengine::v1::LoadInfo> on_answer);
  void GetStages(absl::Duration timeout, OnAnswer<v1::GetStagesResponse> on_answer);
  // grpc.health.v1 of the whole server: once at the start, with every change, and the end.
  void Watch(std::function<void(bool serving)> on_health,
             std::function<void(const grpc::Status&)> on_end);

  // What of the above runs, or is started later, ends CANCELLED. Streams go on. Calls back as they
  // do.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class HealthWatch;
  // A call's context is known to Cancel() for as long as the call runs.
  std::shared_ptr<grpc::ClientContext> NewContext() ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(const std::shared_ptr<grpc::ClientContext>& context) ABSL_LOCKS_EXCLUDED(mutex_);
  template <typename Request, typename Response, typename Start>
  void Ask(absl::Duration timeout, Start start, OnAnswer<Response> on_answer);

  const std::shared_ptr<grpc::Channel> channel_;
  openengine::v1::Inference::Stub inference_;
  openengine::v1::Control::Stub control_;
  v1::Admin::Stub admin_;
  grpc::health::v1::Health::Stub health_;
  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<std::shared_ptr<grpc::ClientContext>> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace polystrate
