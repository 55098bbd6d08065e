#include "rpc/http/answer_session.h"

#include "rpc/http/openai_error.h"

namespace polystrate {
namespace {

// How soon a client that has gone is noticed while nothing comes.
constexpr absl::Duration kCheckInterval = absl::Milliseconds(100);
constexpr size_t kMaxWriteBytes = 64 << 10;

}  // namespace

AnswerSession::AnswerSession(pb::Inference::Stub& stub, OpenAiRequest request, AnswerHead head,
                             Generations::Metadata metadata, Ends ends)
    : request_(std::move(request)),
      ends_(std::move(ends)),
      reader_(request_),
      format_(std::move(head), request_),
      generations_(stub, request_.calls, std::move(metadata)) {}

absl::StatusOr<AnswerSession::Step> AnswerSession::Next(absl::Duration wait) {
  int64_t call = 0;
  pb::GenerateResponse event;
  Step step;
  switch (generations_.Next(wait, &call, &event)) {
    case Generations::Outcome::kEnd:
      if (!generations_.status().ok()) return generations_.status();
      step.ended = true;
      break;
    case Generations::Outcome::kEvent:
      step.parts = reader_.Read(call, event);
      break;
    case Generations::Outcome::kTimeout:
      break;
  }
  return step;
}

absl::StatusOr<AnswerSession::Step> AnswerSession::Await() {
  while (true) {
    if (!ends_.client_is_there()) return absl::CancelledError("the client has gone");
    if (*ends_.shutting_down) return absl::UnavailableError("the server is shutting down");
    absl::StatusOr<Step> step = Next(kCheckInterval);
    if (!step.ok() || step->ended || !step->parts.empty()) return step;
  }
}

absl::StatusOr<std::string> AnswerSession::ReadWhole() {
  std::vector<ChoicePart> choices(request_.calls.size() * request_.num_choices);
  for (size_t i = 0; i < choices.size(); ++i) choices[i].index = static_cast<int64_t>(i);
  while (true) {
    absl::StatusOr<Step> step = Await();
    if (!step.ok()) return step.status();
    if (step->ended) return format_.Whole(choices, reader_.counts());
    for (ChoicePart& part : step->parts) choices[part.index].Append(std::move(part));
  }
}

absl::Status AnswerSession::AwaitBegin() {
  absl::StatusOr<Step> step = Await();
  if (!step.ok()) return step.status();
  begin_ = *std::move(step);
  return absl::OkStatus();
}

void AnswerSession::Stream(const std::function<bool(const std::string&)>& write) {
  absl::StatusOr<Step> step = std::move(begin_);
  while (step.ok() && !step->ended) {
    std::string events;
    // What has come meanwhile goes along.
    while (step.ok() && !step->parts.empty() && events.size() < kMaxWriteBytes) {
      for (const ChoicePart& part : step->parts) events += format_.Chunks(part);
      step = Next(absl::ZeroDuration());
    }
    if (!events.empty() && !write(events)) return;
    if (step.ok() && !step->ended && step->parts.empty()) step = Await();
  }
  write(step.ok() ? format_.LastChunks(reader_.counts())
                  : ServerSentEvent(HttpError(step.status()).ToJson()));
}

}  // namespace polystrate
