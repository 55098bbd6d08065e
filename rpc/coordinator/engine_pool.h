// EnginePool: the engines that a coordinator routes over: who they are, which of them serve, what
// each has to do, and which is to have a request.
//
// An engine comes in by a flag, by a line of a watched file, or by registering itself, and is one
// channel. grpc.health.v1's Watch says whether it serves; GetLoad, polled, what it has to do, and,
// unanswered for `silence`, that it hangs. An engine that is lost is ejected at once and tried
// again with back-off; who comes back is a new engine with nothing in its cache.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "openengine.grpc.pb.h"
#include "polystrate_admin.grpc.pb.h"
#include "polystrate_coordinator.pb.h"
#include "rpc/connector.h"
#include "rpc/coordinator/prefix_index.h"

namespace polystrate {

enum class RoutingPolicy : uint8_t { kPrefix, kLeastLoad, kRoundRobin };

struct EnginePoolOptions {
  Connector connector;
  RoutingPolicy policy = RoutingPolicy::kPrefix;
  std::string
      engine_file;  // HOST:PORT a line, # begins a comment; empty: none. Read again when it changes
  absl::Duration load_interval = absl::Milliseconds(100);  // between two GetLoad of an engine
  absl::Duration silence = absl::Seconds(5);  // after which an engine that does not answer is lost
};

// What routing knows of a request.
struct RouteHint {
  std::string model;               // empty: whichever is served, if it is one
  PrefixHashes prefix;             // of its prompt
  std::string routing_key;         // openengine-routing-key; empty: none
  int64_t prompt_tokens = 0;       // about
  int64_t output_tokens = 0;       // still to come, about
  std::vector<std::string> avoid;  // targets that get it only if no other serves
};

class EngineLink;  // an engine, as the pool keeps it

// One attempt at one engine: counted in its load until this is destroyed. Its calls never block;
// one thread at a time. May outlive the pool.
class EngineLease {
 public:
  EngineLease(EngineLease&&) noexcept;
  EngineLease& operator=(EngineLease&&) noexcept;
  ~EngineLease();

  const std::string& target() const;
  openengine::v1::Inference::Stub& inference();
  openengine::v1::Control::Stub& control();
  // Tokens of the output that have come; with the first, the prompt is done too.
  void OnTokens(int64_t n);
  // The attempt broke: the connection is gone, or the engine said that it is going. The engine is
  // ejected until its health says otherwise.
  void ReportLost(const absl::Status& why);

 private:
  friend class EnginePool;
  EngineLease(std::shared_ptr<EngineLink> link, const RouteHint& hint);

  std::shared_ptr<EngineLink> link_;  // null when moved from
  int64_t prompt_tokens_ = 0;  // of these, and of the next, the engine has still to do so many
  int64_t output_tokens_ = 0;
};

class EnginePool {
 public:
  struct Events {
    std::function<void()> serving;  // an engine has come (back): who waits for one may try again
    // Whoever is there has to go elsewhere: the engine hangs or is gone. Not for one that drains.
    std::function<void(const std::string& target)> lost;
  };
  // What the status page and the metrics are about. `stages` is empty where an engine does not
  // tell.
  struct View {
    v1::EngineStatus status;
    openengine::v1::LoadInfo load;
    openengine::v1::ServerInfo server;
    openengine::v1::ModelInfo model;
    v1::GetStagesResponse stages;
  };

  // The events are called from threads of the pool's or gRPC's, never under a lock of the pool's,
  // and not after Stop(). INVALID_ARGUMENT for a target that is none, and for a file that cannot be
  // read.
  static absl::StatusOr<std::unique_ptr<EnginePool>> Start(const EnginePoolOptions& options,
                                                           const std::vector<std::string>& targets,
                                                           Events events);
  ~EnginePool();
  void Stop();  // idempotent; leases may live on

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
