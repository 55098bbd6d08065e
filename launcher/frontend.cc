#include "launcher/frontend.h"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "launcher/offline.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

// How long a client may take to read the end of its stream once the engine has stopped, and how
// long when the engine is lost: mpirun kills the ranks a second after it has found one dead.
constexpr absl::Duration kLastReads = absl::Seconds(5);
constexpr absl::Duration kLastWords = absl::Milliseconds(300);

// Once the engine has stopped, ranks have nothing left to do but to leave.
constexpr unsigned kLeaveSeconds = 30;

}  // namespace

absl::Status Frontend::Open(const ServeFlags& flags, const EngineSetup& setup) {
  RETURN_IF_ERROR(CheckTimelinePath(flags.engine));
  ASSIGN_OR_RETURN(tokenizer_, LoadTokenizer(flags.engine.model.model));
  RETURN_IF_ERROR(CheckKvMemory(setup));
  engine_ = std::make_unique<Engine>(setup.engine, tokenizer_.get());
  ASSIGN_OR_RETURN(log_, RequestLog::Open(flags.request_log));
  server_ = std::make_unique<RpcServer>(*engine_, log_.get());
  RpcServerOptions rpc = flags.rpc;
  rpc.reader_timeout = absl::Seconds(flags.reader_timeout);
  RETURN_IF_ERROR(server_->Start(flags.listen, rpc));
  ASSIGN_OR_RETURN(coordinators_, flags.registration.Make(flags.listen, server_->port()));
  if (!flags.metrics_listen.empty()) RETURN_IF_ERROR(ServeMetrics(flags.metrics_listen));
  watchdog_ = std::make_unique<Watchdog>(
      *engine_,
      WatchdogOptions{absl::Seconds(flags.watchdog_soft), absl::Seconds(flags.watchdog_hard)},
      [this](const absl::Status& status) { EndStreams(status); });
  watcher_ = std::make_unique<SignalWatcher>([this](DrainSignal signal) { OnSignal(signal); });
  return absl::OkStatus();
}

absl::Status Frontend::ServeMetrics(const std::string& address) {
  ASSIGN_OR_RETURN(metrics_,
                   MetricsServer::Start(address, [this] { return TakeMetrics(*engine_, *log_); }));
  std::fprintf(stderr, "serve: metrics on %s (port %d)\n", address.c_str(), metrics_->port());
  return absl::OkStatus();
}

void Frontend::Serve(RankSession& session) {
  std::vector<std::unique_ptr<Registration>> registrations;
  for (const RegistrationOptions& coordinator : coordinators_) {
    registrations.push_back(std::make_unique<Registration>(coordinator, [this] {
      const EngineState state = engine_->state();
      return state != EngineState::kDraining && state != EngineState::kStopped;
    }));
  }
  engine_->Run(session.control(), session.stage());
  alarm(kLeaveSeconds);  // SIGALRM ends this process, and mpirun the others
  registrations.clear();
  server_->Shutdown(absl::Now() + kLastReads);
  if (!watchdog_->engine_is_lost()) std::fprintf(stderr, "serve: drained\n");
}

void Frontend::OnSignal(DrainSignal signal) {
  if (signal.number == SIGTERM && signal.from_parent && ReadLaunchInfo().by_open_mpi) {
    return watchdog_->OnLauncherKills();
  }
  const bool second = std::exchange(signalled_, true);  // it means now
  std::fprintf(stderr, "serve: signal %d\n", signal.number);
  server_->Drain(second ? absl::ZeroDuration() : engine_->options().drain_timeout);
}

void Frontend::EndStreams(const absl::Status& status) {
  server_->SetServing(false);
  engine_->FailAll(status);
  server_->Shutdown(absl::Now() + kLastWords);
}

}  // namespace polystrate
