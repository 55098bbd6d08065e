// ServeFlags: the flags of `polystrate serve`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "launcher/engine_setup.h"
#include "launcher/flags.h"
#include "launcher/registration_flags.h"
#include "rpc/server.h"

namespace polystrate {

struct ServeFlags {
  EngineFlags engine;
  std::string listen = "127.0.0.1:50051";
  int64_t drain_timeout = 30;
  double watchdog_soft = 30;
  double watchdog_hard = 300;
  double rank_timeout = 20;
  int64_t max_queued_requests = 1024;
  std::optional<int64_t> max_queued_tokens;
  int64_t reader_timeout = 30;
  RpcServerOptions rpc;
  std::string metrics_listen;
  std::string request_log;
  RegistrationFlags registration;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT for numbers that make no sense.
  absl::Status Check() const;
};

}  // namespace polystrate
