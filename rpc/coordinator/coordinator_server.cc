#include "rpc/coordinator/coordinator_server.h"

#include <algorithm>
#include <cstdio>

#include "absl/time/clock.h"
#include "grpcpp/health_check_service_interface.h"
#include "kernels/core/status.h"
#include "rpc/coordinator/coordinator_metrics.h"
#include "rpc/coordinator/status_json.h"

namespace polystrate {
namespace {

// How long calls that answer at once may take to do so when the server goes.
constexpr absl::Duration kLastAnswers = absl::Milliseconds(200);
// How soon health follows the engines'.
constexpr absl::Duration kHealthInterval = absl::Milliseconds(50);
// How long a client may take to read the end of its stream.
constexpr absl::Duration kLastReads = absl::Seconds(5);

}  // namespace

CoordinatorServer::CoordinatorServer(const CoordinatorOptions& options)
    : options_(options),
      registry_(options.carry),
      inference_(registry_),
      control_(registry_),
      admin_(registry_, options.drain_timeout, [this](absl::Duration timeout) { Drain(timeout); }) {
}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorOptions& options) {
  std::unique_ptr<CoordinatorServer> server(new CoordinatorServer(options));
  CallRegistry* registry = &server->registry_;
  ASSIGN_OR_RETURN(server->log_, RequestLog::Open(options.request_log));
  registry->SetLog(server->log_.get());
  ASSIGN_OR_RETURN(server->pool_, EnginePool::Create(options.pool, options.engines,
                                                     {[registry] { registry->OnEngineServing(); },
                                                      [registry](const std::string& target) {
                                                        registry->OnEngineLost(target,
                                                                               registry->losses());
                                                      }}));
  registry->SetPool(server->pool_.get());
  server->engines_ = std::make_unique<RegistryService>(*server->pool_);
  // A resumed request carries its tokens; how large it may be an engine says.
  ASSIGN_OR_RETURN(server->server_,
                   StartGrpcServer(options.listen, options.rpc, options.rpc.max_message_bytes,
                                   {&server->inference_, &server->control_, &server->admin_,
                                    server->engines_.get(), &server->vllm_},
                                   &server->port_));
  server->vllm_.SetBackend(server->InProcessChannel(), options.rpc.reader_timeout);
  server->pool_->Connect();  // gRPC wants a server of the process to be there first
  RETURN_IF_ERROR(server->ListenHttp());
  server->health_ = std::thread([self = server.get()] { self->Run(); });
  return server;
}

absl::Status CoordinatorServer::ListenHttp() {
  if (options_.http_listen.empty()) return absl::OkStatus();
  const HttpExtras extras{[this] { return CoordinatorMetrics(registry_); },
                          [this] { return Status(); }, [this] { return serving(); }};
  ASSIGN_OR_RETURN(
      http_, HttpServer::Start(options_.http_listen, options_.http, InProcessChannel(), extras));
  return absl::OkStatus();
}

std::string CoordinatorServer::Status() const {
  const CoordinatorStats& stats = registry_.stats();
  CoordinatorStatus status;
  status.version = POLYSTRATE_VERSION;
  status.started = started_;
  status.streams = registry_.num_calls();
  status.waiting = registry_.num_waiting();
  status.requests = static_cast<int64_t>(stats.requests);
  status.failed = static_cast<int64_t>(stats.failed);
  status.carried = static_cast<int64_t>(stats.carried);
  status.quarantined = static_cast<int64_t>(stats.quarantined);
  status.tokens = static_cast<int64_t>(stats.tokens);
  return StatusJson(status, pool_->Read(), absl::Now());
}

CoordinatorServer::~CoordinatorServer() {
  if (health_.joinable()) {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    health_.join();
    registry_.Drain(absl::ZeroDuration());
    WaitUntilDrained();
  }
  // gRPC cannot bear that one of its own threads gives up the last channel, unless a server is
  // there.
  registry_.WaitUntilGone();
  pool_.reset();
}

std::shared_ptr<grpc::Channel> CoordinatorServer::InProcessChannel() {
  return polystrate::InProcessChannel(*server_);
}

bool CoordinatorServer::serving() const {
  absl::MutexLock lock(&mutex_);
  return serving_;
}

void CoordinatorServer::Run() {
  while (true) {
    PublishHealth();
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), kHealthInterval)) return;
  }
}

void CoordinatorServer::PublishHealth() {
  const bool any = pool_->any_serving();
  absl::MutexLock lock(&mutex_);
  const bool serving = any && !draining_;
  if (serving == serving_) return;
  serving_ = serving;
  if (!draining_) {
    std::fprintf(stderr,
                 serving ? "coordinator: SERVING on %s (port %d)\n"
                         : "coordinator: no engine serves; %s (port %d) is NOT_SERVING\n",
                 options_.listen.c_str(), port_);
  }
  SetHealth(*server_,
            {openengine::v1::Inference::service_full_name(),
             openengine::v1::Control::service_full_name(), v1::Admin::service_full_name(),
             v1::Coordinator::service_full_name(), gateway::VllmEngine::service_full_name()},
            serving);
}

void CoordinatorServer::Drain(absl::Duration timeout) {
  std::fprintf(stderr, "coordinator: draining for at most %s\n",
               absl::FormatDuration(timeout).c_str());
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  PublishHealth();
  registry_.Drain(timeout);
}

void CoordinatorServer::WaitUntilDrained() {
  registry_.WaitUntilDrained();
  if (http_ != nullptr) http_->Shutdown(absl::Now() + kLastReads);
  if (!registry_.WaitForNone(absl::Now() + kLastReads)) {
    std::fprintf(stderr, "coordinator: %lld clients did not take the end of their streams\n",
                 static_cast<long long>(registry_.num_calls()));
  }
  vllm_.WaitForStreams(absl::Now() + kLastAnswers);  // what they were told by the others is theirs
  server_->GetHealthCheckService()->Shutdown();
  server_->Shutdown(absl::ToChronoTime(absl::Now() + kLastAnswers));
  server_->Wait();
}

}  // namespace polystrate
