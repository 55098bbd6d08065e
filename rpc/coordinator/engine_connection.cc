#include "rpc/coordinator/engine_connection.h"

#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;
namespace health = grpc::health::v1;

// Pings of a connection on which nothing comes: a host that is gone is noticed though all streams
// wait. Servers of this kind take them no closer than every 10 s.
constexpr KeepAlive kKeepAlive{absl::Seconds(10), absl::Seconds(5)};

// What a call needs until it is over.
template <typename Request, typename Response>
struct Call {
  std::shared_ptr<grpc::ClientContext> context;
  Request request;
  Response response;
};

}  // namespace

// Owns itself: it goes away with OnDone.
class EngineConnection::HealthWatch final
    : public grpc::ClientReadReactor<health::HealthCheckResponse> {
 public:
  HealthWatch(std::shared_ptr<EngineConnection> connection,
              std::function<void(bool serving)> on_health,
              std::function<void(const grpc::Status&)> on_end)
      : connection_(std::move(connection)),
        context_(connection_->NewContext()),
        on_health_(std::move(on_health)),
        on_end_(std::move(on_end)) {
    connection_->health_.async()->Watch(context_.get(), &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    on_health_(response_.status() == health::HealthCheckResponse::SERVING);
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    connection_->Forget(context_);
    on_end_(status);
    delete this;
  }

 private:
  const std::shared_ptr<EngineConnection> connection_;
  const std::shared_ptr<grpc::ClientContext> context_;
  const std::function<void(bool)> on_health_;
  const std::function<void(const grpc::Status&)> on_end_;
  const health::HealthCheckRequest request_;
  health::HealthCheckResponse response_;
};

EngineConnection::EngineConnection(const Connector& connector, const std::string& target)
    : channel_(connector.Connect(target, kKeepAlive)),
      inference_(channel_),
      control_(channel_),
      admin_(channel_),
      health_(channel_) {}

std::shared_ptr<grpc::ClientContext> EngineConnection::NewContext() {
  auto context = std::make_shared<grpc::ClientContext>();
  absl::MutexLock lock(&mutex_);
  if (cancelled_) context->TryCancel();  // a call that has not begun: nobody is called back
  running_.insert(context);
  return context;
}

void EngineConnection::Forget(const std::shared_ptr<grpc::ClientContext>& context) {
  absl::MutexLock lock(&mutex_);
  running_.erase(context);
}

template <typename Request, typename Response, typename Start>
void EngineConnection::Ask(absl::Duration timeout, Start start, OnAnswer<Response> on_answer) {
  auto call = std::make_shared<Call<Request, Response>>();
  call->context = NewContext();
  call->context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  start(call->context.get(), &call->request, &call->response,
        [self = shared_from_this(), call, on_answer = std::move(on_answer)](grpc::Status status) {
          self->Forget(call->context);
          on_answer(status, call->response);
        });
}

void EngineConnection::GetServerInfo(absl::Duration timeout, OnAnswer<pb::ServerInfo> on_answer) {
  Ask<pb::GetServerInfoRequest>(
      timeout, [this](auto... call) { control_.async()->GetServerInfo(std::move(call)...); },
      std::move(on_answer));
}

void EngineConnection::GetModelInfo(absl::Duration timeout, OnAnswer<pb::ModelInfo> on_answer) {
  Ask<pb::GetModelInfoRequest>(
      timeout, [this](auto... call) { control_.async()->GetModelInfo(std::move(call)...); },
      std::move(on_answer));
}

void EngineConnection::GetLoad(absl::Duration timeout, OnAnswer<pb::LoadInfo> on_answer) {
  Ask<pb::GetLoadRequest>(
      timeout, [this](auto... call) { control_.async()->GetLoad(std::move(call)...); },
      std::move(on_answer));
}

void EngineConnection::GetStages(absl::Duration timeout,
                                 OnAnswer<v1::GetStagesResponse> on_answer) {
  Ask<v1::GetStagesRequest>(
      timeout, [this](auto... call) { admin_.async()->GetStages(std::move(call)...); },
      std::move(on_answer));
}

void EngineConnection::Watch(std::function<void(bool serving)> on_health,
                             std::function<void(const grpc::Status&)> on_end) {
  new HealthWatch(shared_from_this(), std::move(on_health), std::move(on_end));
}

void EngineConnection::Cancel() {
  std::vector<std::shared_ptr<grpc::ClientContext>> running;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    running.assign(running_.begin(), running_.end());
  }
  for (const auto& context : running) context->TryCancel();
}

}  // namespace polystrate
