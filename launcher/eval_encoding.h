// A context and its continuation as the tokens that are scored, cut where lm-evaluation-harness
// cuts them, so that log-likelihoods are of the same tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer.h"

namespace polystrate {

struct EncodingOptions {
  int64_t max_model_len = 0;
  // What stands for an empty context; without it such a context is refused.
  std::optional<int32_t> prefix_token;
};

struct EncodedPair {
  std::vector<int32_t> tokens;     // at most max_model_len + 1: the last is not computed
  int64_t continuation_begin = 0;  // > 0: the continuation is tokens from here on
  bool truncated = false;          // tokens were dropped at the left
};

// White space at the context's end goes to the continuation. The context's tokens are those it has
// by itself; the continuation's are those of the whole text behind as many. (Where the two grow
// together over the seam they are not the tokens of the whole text: that is the harness's rule.)
// INVALID_ARGUMENT when either has no token, or the continuation more than the model takes.
absl::StatusOr<EncodedPair> EncodePair(const Tokenizer& tokenizer, const std::string& context,
                                       const std::string& continuation,
                                       const EncodingOptions& options);

// The token that begins a text, as DIR/tokenizer_config.json has it: bos_token, else eos_token;
// else the model's end of sequence. Nothing when there is none of them.
absl::StatusOr<std::optional<int32_t>> ReadPrefixToken(const std::string& model_dir,
                                                       const Tokenizer& tokenizer,
                                                       const std::vector<int32_t>& eos_token_ids);

}  // namespace polystrate
