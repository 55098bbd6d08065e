// Delivery: what a client has had of its stream, so that another engine can go on from there and
// the client sees one stream: no token twice, none missing, text unbroken. Pure; not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/request.h"
#include "openengine_generate.pb.h"

namespace polystrate {

class Delivery {
 public:
  // `had`: what the client has had of each output before this stream began; empty ones as a rule.
  explicit Delivery(std::vector<ResumedOutput> had);

  // An engine's event; what of all events so far the client is to have next is put behind *out.
  //
  // An engine tells text that it held back with no token, just before an output's end. Such an
  // event waits for the end here: should the end be lost, the next engine tells that text again.
  void Take(openengine::v1::GenerateResponse event,
            std::vector<openengine::v1::GenerateResponse>* out);
  // The engine is lost, and with it what waited for an end.
  void Lose();
  // After Lose(): where another engine has to go on; empty when nothing has been delivered.
  std::vector<ResumedOutput> Resume() const;

  // The last event has been taken: usage or an error.
  bool complete() const { return complete_; }
  int64_t num_tokens() const { return num_tokens_; }  // of all outputs
  bool has_ended(int32_t output) const { return outputs_[output].resumed.ended; }
  int32_t num_sequences() const { return static_cast<int32_t>(outputs_.size()); }

 private:
  struct Output {
    ResumedOutput resumed;
    std::optional<openengine::v1::GenerateResponse> held;  // for this output's end
  };
  void TakeTokens(openengine::v1::GenerateResponse event,
                  std::vector<openengine::v1::GenerateResponse>* out);
  void Deliver(openengine::v1::GenerateResponse event,
               std::vector<openengine::v1::GenerateResponse>* out);
  void NameKnownOutput(openengine::v1::GenerateResponse* event) const;

  std::vector<Output> outputs_;
  bool prompt_told_ = false;
  bool complete_ = false;
  int64_t num_tokens_ = 0;
};

}  // namespace polystrate
