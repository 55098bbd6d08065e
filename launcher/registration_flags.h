// RegistrationFlags: the flags of `serve` that name coordinators, and how it gets to them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/flags.h"
#include "rpc/registration.h"

namespace polystrate {

struct RegistrationFlags {
  std::vector<std::string> coordinators;
  std::string advertise;
  ConnectorOptions connection;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT; `listen` is --listen.
  absl::Status Check(const std::string& listen) const;
  // One for each coordinator, for a server that has bound `port`. Reads the files.
  absl::StatusOr<std::vector<RegistrationOptions>> Make(const std::string& listen, int port) const;
};

}  // namespace polystrate
