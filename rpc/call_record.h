// CallRecord: what the request log will say of one Generate call, gathered while it runs.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "engine/request.h"
#include "grpcpp/server_context.h"
#include "openengine_generate.pb.h"
#include "rpc/request_log.h"

namespace polystrate {

// One thread at a time. The call has arrived when its record is made.
class CallRecord {
 public:
  // `log` outlives the record; null: nobody is told.
  CallRecord(RequestLog* log, const grpc::ServerContextBase& context,
             const openengine::v1::GenerateRequest& request);

  void SetPriority(int64_t priority) { record_.priority = priority; }
  // What Engine::Submit gets.
  void SetRequest(const GenerationRequest& request);
  void AddToken();

  // Of a call that a coordinator carries: where it goes next, and what its client is told.
  void SetEngine(const std::string& target);
  void AddEvent(const openengine::v1::GenerateResponse& event);

  // Exactly one of these. The client's stream has ended so, after the events; refused before
  // acceptance; ended with usage, `stream` being the status that the client's stream had by then;
  // failed.
  void End(const absl::Status& status);
  void Refuse(const absl::Status& status);
  void Finish(const Finished& finished, absl::StatusCode stream);
  void Fail(const absl::Status& status);

 private:
  void Write(absl::StatusCode status);

  RequestLog* const log_;
  RequestRecord record_;
  int64_t arrival_ns_;
};

}  // namespace polystrate
