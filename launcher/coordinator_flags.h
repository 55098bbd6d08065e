// CoordinatorFlags: the flags of `polystrate coordinator`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/flags.h"
#include "rpc/coordinator/coordinator_server.h"

namespace polystrate {

struct CoordinatorFlags {
  CoordinatorOptions options;
  ConnectorOptions engines;  // how engines are reached
  std::string routing = "prefix";
  int64_t drain_timeout = 30;
  double engine_timeout = 5;
  double carry_timeout = 60;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT for what makes no sense; what Connector::Create finds wrong.
  absl::StatusOr<CoordinatorOptions> Options() const;
};

}  // namespace polystrate
