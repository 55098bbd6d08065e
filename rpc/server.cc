#include "rpc/server.h"

#include <algorithm>
#include <cstdio>

#include "absl/time/clock.h"
#include "grpcpp/health_check_service_interface.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// How long calls that answer at once may take to do so when the server goes.
constexpr absl::Duration kLastAnswers = absl::Milliseconds(200);

}  // namespace

RpcServer::RpcServer(Engine& engine, RequestLog* log)
    : engine_(engine),
      inference_(engine, log),
      control_(engine),
      admin_(engine, [this](auto timeout) { Drain(timeout); }) {}

RpcServer::~RpcServer() { Shutdown(absl::Now()); }

absl::Status RpcServer::Start(const std::string& address, const RpcServerOptions& options) {
  ASSIGN_OR_RETURN(server_, StartGrpcServer(address, options, inference_.MaxRequestBytes(),
                                            {&inference_, &control_, &admin_, &vllm_}, &port_));
  inference_.WatchReaders(options.reader_timeout);  // no stream begins before StartAccepting
  vllm_.SetBackend(InProcessChannel(*server_), options.reader_timeout);
  SetServing(false);
  return absl::OkStatus();
}

bool RpcServer::SetServing(bool serving) {
  absl::MutexLock lock(&mutex_);
  if (serving && draining_) return false;
  if (serving) inference_.StartAccepting();
  SetHealth(serving);
  return true;
}

void RpcServer::Drain(absl::Duration timeout) {
  std::fprintf(stderr, "serve: draining for at most %s\n", absl::FormatDuration(timeout).c_str());
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  SetHealth(false);
  engine_.BeginDrain(timeout);
}

void RpcServer::SetHealth(bool serving) {
  polystrate::SetHealth(
      *server_,
      {openengine::v1::Inference::service_full_name(), openengine::v1::Control::service_full_name(),
       v1::Admin::service_full_name(), gateway::VllmEngine::service_full_name()},
      serving);
}

void RpcServer::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;
  server_->GetHealthCheckService()->Shutdown();  // NOT_SERVING, whatever SetServing says later
  inference_.WaitForStreams(deadline);
  vllm_.WaitForStreams(deadline);
  // gRPC would go on waiting for clients that look at their connection only when they call.
  server_->Shutdown(absl::ToChronoTime(std::min(deadline, absl::Now() + kLastAnswers)));
  server_->Wait();
}

}  // namespace polystrate
