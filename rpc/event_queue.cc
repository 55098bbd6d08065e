#include "rpc/event_queue.h"

#include <utility>

#include "rpc/convert.h"

namespace polystrate {
namespace {

// An upper bound: numbers of a token and of a candidate with their tags.
constexpr int64_t kTokenBytes = 32;
constexpr int64_t kCandidateBytes = 24;

}  // namespace

pb::GenerateResponse& EventQueue::Add() {
  pb::GenerateResponse& message = events_.emplace_back().message;
  message.set_request_id(request_id_);
  return message;
}

void EventQueue::AddToken(const TokenInfo& token) {
  Event& event = Delta(token.output_index);
  pb::TokenOutput& output = *event.message.mutable_token();
  pb::TokenInfo& told = *output.add_tokens();
  ToWire(token, tokenizer_, &told);
  output.mutable_text()->append(token.text);
  int64_t bytes =
      kTokenBytes + 2 * static_cast<int64_t>(token.text.size());  // twice: in `told` too
  for (const pb::LogProb& candidate : told.candidates()) {
    bytes += kCandidateBytes + static_cast<int64_t>(candidate.token().size());
  }
  Grow(event, bytes);
}

void EventQueue::AddText(int32_t output_index, const std::string& text) {
  Add().mutable_token()->set_output_index(static_cast<uint32_t>(output_index));
  Event& event = events_.back();
  event.message.mutable_token()->set_text(text);
  Grow(event, static_cast<int64_t>(text.size()));
}

pb::GenerateResponse EventQueue::TakeFirst() {
  Event& first = events_.front();
  token_bytes_ -= first.token_bytes;
  if (first.message.has_token()) {
    const auto delta = deltas_.find(static_cast<int32_t>(first.message.token().output_index()));
    if (delta != deltas_.end() && delta->second == &first) deltas_.erase(delta);
  }
  pb::GenerateResponse message = std::move(first.message);
  events_.pop_front();
  return message;
}

void EventQueue::Clear() {
  events_.clear();
  deltas_.clear();
  token_bytes_ = 0;
}

EventQueue::Event& EventQueue::Delta(int32_t output_index) {
  Event*& delta = deltas_[output_index];
  if (delta == nullptr || delta->token_bytes >= kMaxDeltaBytes) {
    Add().mutable_token()->set_output_index(static_cast<uint32_t>(output_index));
    delta = &events_.back();
  }
  return *delta;
}

void EventQueue::Grow(Event& event, int64_t bytes) {
  event.token_bytes += bytes;
  token_bytes_ += bytes;
}

}  // namespace polystrate
