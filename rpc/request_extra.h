// Polystrate's own keys of GenerateRequest.extra. A key that is not among them is UNIMPLEMENTED.
#pragma once

namespace polystrate {

// {"outputs": [{"token_ids": [5, 6], "ended": false}, ...]}, one for each output: the request goes
// on after these tokens (GenerationRequest::resumed). What a coordinator sends when it carries a
// request from an engine that was lost; a client may use it too.
inline constexpr char kResumeKey[] = "polystrate.resume";

// bool, true when absent: whether the tokenizer adds what begins and ends a text (as BOS) to
// `prompt`. Chat templates write those themselves.
inline constexpr char kAddSpecialTokensKey[] = "polystrate.add_special_tokens";

}  // namespace polystrate
