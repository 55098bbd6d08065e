// What the events of Generate say of the choices of an answer, in the order in which it comes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "openengine_generate.pb.h"
#include "rpc/http/openai_request.h"

namespace polystrate {

struct ScoredToken {
  struct Candidate {
    std::string text;
    double logprob = 0.0;
  };
  std::string text;
  std::optional<double> logprob;     // absent: a prompt's first token
  std::vector<Candidate> likeliest;  // and the token itself, if it is not among them
};

// A piece of one choice, or several in a row.
struct ChoicePart {
  int64_t index = 0;  // prompt * num_choices + output
  std::string text;
  std::vector<ScoredToken> tokens;  // when log-probabilities were asked for
  std::string finish_reason;        // with the last part: stop, length or abort

  void Append(ChoicePart&& next);
};

struct TokenCounts {
  int64_t prompt = 0;
  int64_t completion = 0;
  int64_t cached_prompt = 0;
};

class PartReader {
 public:
  // `request` must outlive the reader.
  explicit PartReader(const OpenAiRequest& request);

  // Of an event of the call for request.calls[call]. Empty where it says nothing.
  std::vector<ChoicePart> Read(int64_t call, const pb::GenerateResponse& event);
  // What the calls have reported at their ends, all together.
  const TokenCounts& counts() const { return counts_; }

 private:
  std::vector<ChoicePart> Echo(int64_t call, const pb::GenerateResponse& event);
  ChoicePart ReadTokens(int64_t call, const pb::TokenOutput& output) const;

  const OpenAiRequest& request_;
  std::vector<bool> echoed_;  // by call
  TokenCounts counts_;
};

}  // namespace polystrate
