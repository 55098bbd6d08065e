// EnginePool: the engines that a coordinator routes over: who they are, which of them serve, what
// each has to do, and which is to have a request.
//
// An engine comes in by a flag, by a line of a watched file, or by registering itself, and is one
// channel. grpc.health.v1's Watch says whether it serves; GetLoad, polled, what it has to do, and,
// unanswered for `silence`, that it hangs. An engine that is lost is ejected at once and tried
// again with back-off; who comes back with another instance_id is a new engine with nothing in its
// cache.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "polystrate_coordinator.pb.h"
#include "rpc/connector.h"
#include "rpc/coordinator/engine_lease.h"
#include "rpc/coordinator/engine_view.h"
#include "rpc/coordinator/router.h"

namespace polystrate {

struct EnginePoolOptions {
  Connector connector;
  RoutingPolicy policy = RoutingPolicy::kPrefix;
  std::string
      engine_file;  // HOST:PORT a line, # begins a comment; empty: none. Read again when it changes
  absl::Duration load_interval = absl::Milliseconds(100);  // between two GetLoad of an engine
  absl::Duration silence = absl::Seconds(5);  // after which an engine that does not answer is lost
};

// The process has to have a gRPC server that outlives the pool, its leases and their calls: with
// the last server or channel gRPC 1.51 ends its callback threads, which must not be done by one of
// them.
class EnginePool {
 public:
  struct Events {
    std::function<void()> serving;  // an engine has come (back): who waits for one may try again
    // Whoever is there has to go elsewhere: the engine hangs or is gone. Not for one that drains.
    std::function<void(const std::string& target)> lost;
  };
  using View = EngineView;

  // The events are called from the pool's thread, which they must not block, without a lock of the
  // pool's, and not after Stop(). INVALID_ARGUMENT for a target that is none; for the file what
  // EngineFile finds wrong with it.
  static absl::StatusOr<std::unique_ptr<EnginePool>> Create(const EnginePoolOptions& options,
                                                            const std::vector<std::string>& targets,
                                                            Events events);
  ~EnginePool();
  void Connect();  // to the engines, from now on; once, when there is a gRPC server
  void Stop();     // idempotent; leases may live on

  // Any thread; never blocks. UNAVAILABLE when no engine serves (the model); NOT_FOUND when no
  // known engine has the model; INVALID_ARGUMENT when none is named and several are served.
  absl::StatusOr<EngineLease> Pick(const RouteHint& hint);
  // INVALID_ARGUMENT names the field.
  absl::Status Register(const v1::RegisterRequest& request);

  bool any_serving() const;
  std::vector<View> Read() const;  // by target

 private:
  class Impl;
  explicit EnginePool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace polystrate
