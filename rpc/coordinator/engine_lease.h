// EngineLease: one attempt of a request at one engine, counted in the engine's load for as long as
// it lives.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "openengine.grpc.pb.h"
#include "rpc/coordinator/prefix_index.h"

namespace polystrate {

class EngineConnection;
class EngineLink;

// What routing knows of a request.
struct RouteHint {
  std::string model;               // empty: whichever is served, if it is one
  PrefixHashes prefix;             // of its prompt
  std::string routing_key;         // openengine-routing-key; empty: none
  int64_t prompt_tokens = 0;       // about
  int64_t output_tokens = 0;       // still to come, about
  std::vector<std::string> avoid;  // targets that get it only if no other serves
};

// Its calls never block; one thread at a time. May outlive the pool.
class EngineLease {
 public:
  EngineLease(EngineLease&&) noexcept;
  EngineLease& operator=(EngineLease&&) noexcept;
  ~EngineLease();

  const std::string& target() const;
  // Of the connection that was up when the engine was picked, for as long as the lease lives.
  openengine::v1::Inference::Stub& inference();
  openengine::v1::Control::Stub& control();
  // Tokens of the output that have come; with the first, the prompt is done too.
  void OnTokens(int64_t n);
  // The attempt broke: the connection is gone, or the engine said that it is going. The engine is
  // ejected until its health, asked for anew, says otherwise. An engine that has come back since
  // then is not blamed.
  void ReportLost(const absl::Status& why);

 private:
  friend class EnginePool;
  // `cached_tokens` of the prompt need not be computed.
  EngineLease(std::shared_ptr<EngineLink> link, std::shared_ptr<EngineConnection> connection,
              const RouteHint& hint, int64_t cached_tokens);
  void Return();

  std::shared_ptr<EngineLink> link_;  // null when moved from
  std::shared_ptr<EngineConnection> connection_;
  // Of the prompt, and of the output, the engine has still to do so many tokens.
  int64_t prompt_tokens_ = 0;
  int64_t output_tokens_ = 0;
  int64_t held_tokens_ = 0;  // that it holds or has waiting, as its own report counts them
};

}  // namespace polystrate
