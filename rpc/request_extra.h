// Polystrate's own keys of GenerateRequest.extra. A key that is not among them is UNIMPLEMENTED.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/request.h"
#include "openengine_generate.pb.h"

namespace polystrate {

// {"outputs": [{"token_ids": [5, 6], "ended": false}, ...]}, one for each output: the request goes
// on after these tokens (GenerationRequest::resumed). What a coordinator sends when it carries a
// request from an engine that was lost; a client may use it too.
//
// What a client has had of an output is counted in tokens. So text that comes without a token, the
// last of an output, comes in an event of its own: whoever means to resume keeps it until the
// output's end is there, for without that it will be told again.
inline constexpr char kResumeKey[] = "polystrate.resume";
// On the wire, of a token that is resumed; an upper bound.
inline constexpr int64_t kResumedTokenBytes = 11;

// bool, true when absent: whether the tokenizer adds what begins and ends a text (as BOS) to
// `prompt`. Chat templates write those themselves.
inline constexpr char kAddSpecialTokensKey[] = "polystrate.add_special_tokens";

struct RequestExtra {
  std::vector<ResumedOutput> resumed;
  bool add_special_tokens = true;
};

// UNIMPLEMENTED names a key that is not known, INVALID_ARGUMENT a value and what was expected.
absl::StatusOr<RequestExtra> ReadExtra(const google::protobuf::Struct& extra);

// In place of what the request has under kResumeKey; nothing there when `outputs` is empty.
void SetResume(const std::vector<ResumedOutput>& outputs, openengine::v1::GenerateRequest* request);

}  // namespace polystrate
