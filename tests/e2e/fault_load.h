// The load under which engines are killed: live streams of every kind of request, each held against
// the answer of an engine that nothing happens to, token by token.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "kernels/core/mutex.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

namespace pb = openengine::v1;

// What a client has of one output of a request.
struct FaultOutput {
  std::vector<uint32_t> ids;
  std::string text;
  std::string end;  // reason and stop; empty: not told

  bool operator==(const FaultOutput&) const = default;
  std::string InWords() const {
    return absl::StrCat(absl::StrJoin(ids, " "), " '", text, "' ", end);
  }
  bool Begins(const FaultOutput& whole) const {
    return ids.size() <= whole.ids.size() &&
           std::equal(ids.begin(), ids.end(), whole.ids.begin()) &&
           whole.text.compare(0, text.size(), text) == 0;
  }
};

// What a client has of a request.
struct Transcript {
  std::map<uint32_t, FaultOutput> outputs;
  int ends = 0;
  std::string usage;

  void Add(const pb::GenerateResponse& event) {
    FaultOutput& output = outputs[event.has_finished() ? event.finished().output_index()
                                                       : event.token().output_index()];
    for (const pb::TokenInfo& token : event.token().tokens())
      output.ids.push_back(token.token_id());
    output.text += event.token().text();
    if (event.has_finished()) {
      absl::StrAppend(&output.end, event.finished().ShortDebugString());
      ++ends;
    }
    if (event.has_usage()) {
      absl::StrAppend(&usage, event.usage().prompt_tokens(), "+", event.usage().completion_tokens(),
                      "=", event.usage().total_tokens());
    }
  }
  // Where this, of a request that has ended whole or not, is not what it should be; empty if it is.
  std::string Difference(const Transcript& expected, bool finished) const {
    if (finished && usage != expected.usage) {
      return absl::StrCat("usage ", usage, " and not ", expected.usage);
    }
    for (const auto& [index, output] : outputs) {
      const auto found = expected.outputs.find(index);
      if (found == expected.outputs.end()) return absl::StrCat("no such output: ", index);
      const FaultOutput& whole = found->second;
      if (finished ? output == whole : output.Begins(whole)) continue;
      return absl::StrCat("output ", index, ": ", output.InWords(), "\n    instead of ",
                          whole.InWords());
    }
    return "";
  }
};

struct FaultCall {
  size_t kind = 0;  // of request
  absl::Time begin;
  absl::Time end;
  std::vector<absl::Time> tokens;  // when events with tokens came
  grpc::Status status;
  bool finished = false;  // OK, and all outputs have ended
  std::string wrong;      // what it has that the undisturbed run has not, or not twice; or empty
};

inline Transcript CallOnce(pb::Inference::Stub& stub, const pb::GenerateRequest& request,
                           const std::function<void()>& on_tokens, FaultCall* call) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(60)));
  Transcript transcript;
  call->begin = absl::Now();
  const auto stream = stub.Generate(&context, request);
  pb::GenerateResponse event;
  while (stream->Read(&event)) {
    if (event.has_token()) {
      call->tokens.push_back(absl::Now());
      on_tokens();
    }
    if (event.has_error()) call->status = grpc::Status(grpc::INTERNAL, event.error().message());
    transcript.Add(event);
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) call->status = status;
  call->end = absl::Now();
  const int outputs = std::max<int>(1, static_cast<int>(request.sampling().num_sequences()));
  call->finished = call->status.ok() && transcript.ends == outputs;
  return transcript;
}

// The answers to all requests, in their order, from an engine that nothing happens to.
inline std::vector<Transcript> AskAll(const std::shared_ptr<grpc::Channel>& channel,
                                      const std::vector<pb::GenerateRequest>& requests) {
  const auto stub = pb::Inference::NewStub(channel);
  std::vector<Transcript> answers;
  for (const pb::GenerateRequest& request : requests) {
    FaultCall call;
    answers.push_back(CallOnce(
        *stub, request, [] {}, &call));
    EXPECT_TRUE(call.finished) << call.status.error_message();
  }
  return answers;
}

// `num_streams` streams at once, each followed by another until Stop(). A client that reads with a
// pause after each event lets tokens wait in every buffer on the way.
class FaultLoad {
 public:
  FaultLoad(const std::shared_ptr<grpc::Channel>& channel,
            const std::vector<pb::GenerateRequest>& requests,
            const std::vector<Transcript>& expected, int num_streams,
            absl::Duration pause = absl::ZeroDuration())
      : stub_(pb::Inference::NewStub(channel)),
        requests_(requests),
        expected_(expected),
        pause_(pause) {
    for (int i = 0; i < num_streams; ++i) threads_.emplace_back(&FaultLoad::Run, this);
  }
  ~FaultLoad() { Stop(); }

  int64_t num_events() const { return num_events_; }  // with tokens
  int64_t num_completed() const { return num_completed_; }
  // Waits for what is under way. All calls, in the order of their ends.
  std::vector<FaultCall> Stop() {
    stopping_ = true;
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
    const MutexLock lock(&mutex_);
    return calls_;
  }

 private:
  void Run() {
    while (!stopping_) {
      FaultCall call;
      call.kind = next_++ % requests_.size();
      const Transcript transcript = CallOnce(
          *stub_, requests_[call.kind],
          [this] {
            ++num_events_;
            absl::SleepFor(pause_);
          },
          &call);
      call.wrong = transcript.Difference(expected_[call.kind], call.finished);
      num_completed_ += call.finished ? 1 : 0;
      // Who is turned away asks again, but not at once.
      if (!call.finished) absl::SleepFor(absl::Milliseconds(20));
      const MutexLock lock(&mutex_);
      calls_.push_back(std::move(call));
    }
  }

  const std::unique_ptr<pb::Inference::Stub> stub_;
  const std::vector<pb::GenerateRequest>& requests_;
  const std::vector<Transcript>& expected_;
  const absl::Duration pause_;
  std::atomic<bool> stopping_{false};
  std::atomic<size_t> next_{0};
  std::atomic<int64_t> num_events_{0};
  std::atomic<int64_t> num_completed_{0};
  Mutex mutex_;
  std::vector<FaultCall> calls_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace polystrate
