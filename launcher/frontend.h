// Frontend: what rank 0 of a serving engine has beside its share of the model: the engine, its gRPC
// server, and who watches over both.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/tokenizer.h"
#include "launcher/engine_setup.h"
#include "launcher/rank_session.h"
#include "launcher/serve_flags.h"
#include "launcher/signals.h"
#include "launcher/watchdog.h"
#include "rpc/metrics_server.h"
#include "rpc/registration.h"
#include "rpc/request_log.h"
#include "rpc/server.h"

namespace polystrate {

class Frontend {
 public:
  // Listens, NOT_SERVING yet, and heeds signals from here on.
  absl::Status Open(const ServeFlags& flags, const EngineSetup& setup);
  // When all ranks are ready: serves until drained, then tells every rank to stop; coordinators
  // are told meanwhile. A drain that has begun before lets nobody in.
  void Serve(RankSession& session);

  Engine& engine() { return *engine_; }
  RpcServer& server() { return *server_; }
  Watchdog& watchdog() { return *watchdog_; }

 private:
  absl::Status ServeMetrics(const std::string& address);
  void OnSignal(DrainSignal signal);
  void EndStreams(const absl::Status& status);

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RequestLog> log_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<MetricsServer> metrics_;
  std::vector<RegistrationOptions> coordinators_;
  std::unique_ptr<Watchdog> watchdog_;
  bool signalled_ = false;                  // only the watcher's thread
  std::unique_ptr<SignalWatcher> watcher_;  // last: it calls the others
};

}  // namespace polystrate
