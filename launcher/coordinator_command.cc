// polystrate coordinator: one address in front of several engines.

#include <cstdio>

#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/coordinator_flags.h"
#include "launcher/signals.h"

namespace polystrate {
namespace {

absl::Status RunCoordinator(const CoordinatorOptions& options) {
  ASSIGN_OR_RETURN(const auto server, CoordinatorServer::Start(options));
  std::fprintf(stderr, "coordinator: listening on %s (port %d); engines named: %zu\n",
               options.listen.c_str(), server->port(), options.engines.size());
  if (server->http_port() != 0) {
    std::fprintf(stderr, "coordinator: HTTP on %s (port %d)\n", options.http_listen.c_str(),
                 server->http_port());
  }
  bool signalled = false;
  const SignalWatcher watcher([&](DrainSignal signal) {
    std::fprintf(stderr, "coordinator: signal %d\n", signal.number);
    server->Drain(signalled ? absl::ZeroDuration() : options.drain_timeout);  // a second means now
    signalled = true;
  });
  server->WaitUntilDrained();
  std::fprintf(stderr, "coordinator: drained\n");
  return absl::OkStatus();
}

}  // namespace

absl::Status CoordinatorCommand(const Arguments& arguments) {
  CoordinatorFlags flags;
  FlagSet set(
      "polystrate coordinator: one address in front of several engines.\n"
      "Serves what an engine serves, sends each request to the engine that is best placed for it, "
      "and carries it\nto another when that engine is lost. SIGTERM or SIGINT drains it; a second "
      "one stops it now.");
  flags.AddTo(&set);
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const CoordinatorOptions options, flags.Options());
  return RunCoordinator(options);
}

}  // namespace polystrate
