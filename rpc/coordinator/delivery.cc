#include "rpc/coordinator/delivery.h"

#include <algorithm>
#include <utility>

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// Text that no token of the event came with.
bool HasHeldBackText(const pb::TokenOutput& output) {
  size_t of_tokens = 0;
  for (const pb::TokenInfo& token : output.tokens()) of_tokens += token.token().size();
  return output.text().size() > of_tokens;
}

}  // namespace

Delivery::Delivery(std::vector<ResumedOutput> had) {
  for (ResumedOutput& resumed : had) {
    num_tokens_ += static_cast<int64_t>(resumed.tokens.size());
    outputs_.push_back({std::move(resumed), std::nullopt});
  }
}

// An engine of another kind may count as it likes; what it says of an output that was not asked for
// is taken, and told, as the last one's: whoever reads the stream may keep a list of its outputs.
void Delivery::NameKnownOutput(pb::GenerateResponse* event) const {
  const auto last = static_cast<uint32_t>(outputs_.size() - 1);
  if (event->has_token() && event->token().output_index() > last) {
    event->mutable_token()->set_output_index(last);
  }
  if (event->has_finished() && event->finished().output_index() > last) {
    event->mutable_finished()->set_output_index(last);
  }
}

void Delivery::Take(pb::GenerateResponse event, std::vector<pb::GenerateResponse>* out) {
  NameKnownOutput(&event);
  switch (event.event_case()) {
    case pb::GenerateResponse::kPrompt:
      if (std::exchange(prompt_told_, true)) return;
      break;
    case pb::GenerateResponse::kToken:
      return TakeTokens(std::move(event), out);
    case pb::GenerateResponse::kFinished: {
      Output& output = outputs_[event.finished().output_index()];
      if (output.held.has_value()) Deliver(*std::exchange(output.held, std::nullopt), out);
      output.resumed.ended = true;
      complete_ = event.has_usage();
      break;
    }
    case pb::GenerateResponse::kError:
      complete_ = true;
      break;
    default:
      break;
  }
  out->push_back(std::move(event));
}

void Delivery::TakeTokens(pb::GenerateResponse event, std::vector<pb::GenerateResponse>* out) {
  Output& output = outputs_[event.token().output_index()];
  if (output.held.has_value()) Deliver(*std::exchange(output.held, std::nullopt), out);
  if (HasHeldBackText(event.token())) {
    output.held = std::move(event);
  } else {
    Deliver(std::move(event), out);
  }
}

void Delivery::Deliver(pb::GenerateResponse event, std::vector<pb::GenerateResponse>* out) {
  std::vector<int32_t>& tokens = outputs_[event.token().output_index()].resumed.tokens;
  for (const pb::TokenInfo& token : event.token().tokens()) {
    tokens.push_back(static_cast<int32_t>(token.token_id()));
  }
  num_tokens_ += event.token().tokens_size();
  out->push_back(std::move(event));
}

void Delivery::Lose() {
  for (Output& output : outputs_) output.held.reset();
}

std::vector<ResumedOutput> Delivery::Resume() const {
  const bool any = std::any_of(outputs_.begin(), outputs_.end(), [](const Output& output) {
    return output.resumed.ended || !output.resumed.tokens.empty();
  });
  std::vector<ResumedOutput> resumed;
  if (!any) return resumed;
  for (const Output& output : outputs_) resumed.push_back(output.resumed);
  return resumed;
}

}  // namespace polystrate
