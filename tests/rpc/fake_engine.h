// A server that says of itself what a test wants, or nothing: what an engine is to a coordinator,
// but for its tokens.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

class FakeEngine final : public openengine::v1::Control::CallbackService {
 public:
  explicit FakeEngine(const std::string& model = "tiny", int port = 0,
                      const std::string& instance_id = "first")
      : model_(model), instance_id_(instance_id) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(),
                             &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    EXPECT_NE(server_, nullptr);
    SetServing(true);
  }
  ~FakeEngine() override {
    SetSilent(false);
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    server_->Wait();
  }

  int port() const { return port_; }
  std::string target() const { return absl::StrCat("127.0.0.1:", port_); }

  void SetServing(bool serving) { server_->GetHealthCheckService()->SetServingStatus(serving); }
  void SetLoad(uint64_t running_tokens, uint64_t waiting_tokens) {
    absl::MutexLock lock(&mutex_);
    load_.set_running_tokens(running_tokens);
    load_.set_waiting_tokens(waiting_tokens);
  }
  void SetInstanceId(const std::string& instance_id) {
    absl::MutexLock lock(&mutex_);
    instance_id_ = instance_id;
  }
  // No call is answered from then on, and none is refused: the connection lives.
  void SetSilent(bool silent) {
    std::vector<grpc::ServerUnaryReactor*> held;
    {
      absl::MutexLock lock(&mutex_);
      silent_ = silent;
      if (!silent) held.swap(held_);
    }
    for (grpc::ServerUnaryReactor* reactor : held) reactor->Finish(grpc::Status::OK);
  }

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const openengine::v1::GetServerInfoRequest*,
                                          openengine::v1::ServerInfo* response) override {
    absl::MutexLock lock(&mutex_);
    response->set_instance_id(instance_id_);
    return Reply(context);
  }
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const openengine::v1::GetModelInfoRequest*,
                                         openengine::v1::ModelInfo* response) override {
    absl::MutexLock lock(&mutex_);
    response->set_model_id(absl::StrCat("files/", model_));
    response->set_served_model_name(model_);
    response->add_served_model_aliases(absl::StrCat(model_, "-alias"));
    return Reply(context);
  }
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context,
                                    const openengine::v1::GetLoadRequest*,
                                    openengine::v1::LoadInfo* response) override {
    absl::MutexLock lock(&mutex_);
    *response = load_;
    response->set_instance_id(instance_id_);
    return Reply(context);
  }

 private:
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (silent_) {
      held_.push_back(reactor);
    } else {
      reactor->Finish(grpc::Status::OK);
    }
    return reactor;
  }

  const std::string model_;
  int port_ = 0;
  absl::Mutex mutex_;
  std::string instance_id_ ABSL_GUARDED_BY(mutex_);
  openengine::v1::LoadInfo load_ ABSL_GUARDED_BY(mutex_);
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ServerUnaryReactor*> held_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace polystrate
