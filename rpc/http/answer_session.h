// AnswerSession: the calls that one HTTP request became, and the answer that is made of them.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "openengine.grpc.pb.h"
#include "rpc/http/answer_format.h"
#include "rpc/http/choice_part.h"
#include "rpc/http/generations.h"
#include "rpc/http/openai_request.h"

namespace polystrate {

// One thread. Its end cancels what still runs.
class AnswerSession {
 public:
  struct Ends {
    std::function<bool()> client_is_there;
    const std::atomic<bool>* shutting_down = nullptr;
  };

  // Starts the calls. `request.calls` have their ids; `stub` must outlive the session.
  AnswerSession(pb::Inference::Stub& stub, OpenAiRequest request, AnswerHead head,
                Generations::Metadata metadata, Ends ends);

  // The answer as one document, when all calls are over. CANCELLED: nobody is there any more.
  absl::StatusOr<std::string> ReadWhole();

  // OK as soon as the stream has something to say: what is refused is so until then.
  absl::Status AwaitBegin();
  // The whole stream as server-sent events, an error that comes under way among them. `write`
  // returns false when the client is gone.
  void Stream(const std::function<bool(const std::string&)>& write);

 private:
  struct Step {
    std::vector<ChoicePart> parts;
    bool ended = false;  // all calls are over
  };
  // What one event says; nothing, if none comes in this time.
  absl::StatusOr<Step> Next(absl::Duration wait);
  // The next that says something, unless nobody waits for it.
  absl::StatusOr<Step> Await();

  const OpenAiRequest request_;
  const Ends ends_;
  PartReader reader_;
  AnswerFormat format_;
  Step begin_;               // AwaitBegin's
  Generations generations_;  // last: its end comes first
};

}  // namespace polystrate
