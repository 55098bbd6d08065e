// RequestLog: one line of JSON for every request that was accepted or refused. Never a prompt, an
// output, a status message (it may quote the request) or a key.
//
// Who adds a record never waits for the disk: lines are made and written by a thread of the log's
// own, from a bounded queue. What a full disk or a slow one does not take is dropped and counted.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace polystrate {

// A duration below zero is unknown and left out of the line, as are empty strings but request_id.
struct RequestRecord {
  absl::Time time;  // of the end
  std::string request_id;
  std::string peer;   // as gRPC names it: ipv4:127.0.0.1:40000
  std::string model;  // as the client named it
  int64_t priority = 0;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache
  int64_t completion_tokens = 0;
  double queue_seconds = -1;  // arrival to first scheduled
  double ttft_seconds = -1;   // arrival to the first token
  double e2e_seconds = -1;    // arrival to the end
  absl::StatusCode status = absl::StatusCode::kOk;
  std::string finish_reason;  // stop, length or abort, with OK
  std::string engine;         // a coordinator's: where the request was last, as HOST:PORT
  int64_t attempts = 0;       // a coordinator's: how many engines it went to; 0 is left out
  std::string traceparent;
};

// One line, its end included.
std::string ToLine(const RequestRecord& record);

class RequestLog {
 public:
  // Records that wait at most; more are dropped.
  static constexpr size_t kMaxQueued = 8192;

  // Appends to `path`, which is made if need be; "-" is standard error, and without a path there is
  // no file and refusals alone are counted. The file is opened again when another has taken its
  // name or none has, so that it can be rotated by renaming it. INVALID_ARGUMENT when it cannot be
  // opened.
  static absl::StatusOr<std::unique_ptr<RequestLog>> Open(const std::string& path);
  // Writes what waits, for a bounded time: a disk that hangs must not keep the process.
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  bool has_file() const { return writer_.joinable(); }

  // Any thread, like all below; returns at once. Only with a file.
  void Add(RequestRecord record);
  // A request that was not accepted.
  void CountRefusal(absl::StatusCode code);

  // Since it was opened. By code: 1 to 16.
  using CodeCounts = std::array<int64_t, 17>;
  CodeCounts num_refused() const;
  int64_t num_written() const;
  int64_t num_dropped() const;

 private:
  struct State;  // the writer's thread may outlive the log when the disk hangs
  explicit RequestLog(std::unique_ptr<State> state);  // starts the writer if there is a file
  static bool Reopen(State* state);
  static void Write(State& state);

  std::unique_ptr<State> state_;
  std::thread writer_;
};

}  // namespace polystrate
