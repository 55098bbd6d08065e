// EventQueue: what a stream's reader has not taken yet, in order. Token deltas merge, into one for
// each output until that is large, so that a slow reader gets fewer and larger events.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "engine/request.h"
#include "openengine_generate.pb.h"

namespace polystrate {

class Tokenizer;

class EventQueue {
 public:
  // A delta that is larger takes no more tokens: clients by default refuse messages of 4 MiB, and a
  // slow reader has to be seen taking events.
  static constexpr int64_t kMaxDeltaBytes = 64 << 10;

  // Of the model's tokens, for the texts of candidates; may be null and must outlive the queue.
  explicit EventQueue(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  void SetRequestId(const std::string& request_id) { request_id_ = request_id; }

  // A new event at the end, for the caller to fill.
  openengine::v1::GenerateResponse& Add();
  void AddToken(const TokenInfo& token);
  // Text that came with no token, in an event of its own: see kResumeKey (request_extra.h).
  void AddText(int32_t output_index, const std::string& text);

  bool empty() const { return events_.empty(); }
  // About what the tokens that wait take on the wire.
  int64_t token_bytes() const { return token_bytes_; }
  openengine::v1::GenerateResponse TakeFirst();
  void Clear();

 private:
  struct Event {
    openengine::v1::GenerateResponse message;
    int64_t token_bytes = 0;
  };
  // The event to add to.
  Event& Delta(int32_t output_index);
  void Grow(Event& event, int64_t bytes);

  const Tokenizer* const tokenizer_;
  std::string request_id_;
  std::deque<Event> events_;
  absl::flat_hash_map<int32_t, Event*> deltas_;  // in events_, by output: the last of each
  int64_t token_bytes_ = 0;
};

}  // namespace polystrate
