// Reads tokenizer.json (Hugging Face `tokenizers`, version 1.0) into TokenizerParts.
//
// Read: model BPE (merges as "a b" or ["a", "b"], ignore_merges, and without ByteLevel also
// byte_fallback, unk_token and fuse_unk); normalizers (normalizer.h); pre_tokenizers Split
// (Isolated, MergedWithPrevious, MergedWithNext), Digits, and ByteLevel as the last or Metaspace as
// the first; decoders (token_decoder.h); post_processors (post_processor.h); added_tokens with all
// their flags. Sequences of these count as well.
// With a pre_tokenizer ByteLevel BPE is over bytes, otherwise over characters.
// Not used: truncation and padding, which are the engine's business; unk_token and fuse_unk of
// byte-level BPE, since text that needs a byte outside the vocabulary is refused.
// Everything else is INVALID_ARGUMENT, by name.
#pragma once

#include "absl/status/statusor.h"
#include "engine/json.h"
#include "engine/tokenizer.h"

namespace polystrate {

inline constexpr int64_t kMaxTokenizerFileBytes = int64_t{64} << 20;

// INVALID_ARGUMENT for whatever TokenizerParts could not hold: ids with gaps or listed twice,
// merges of unknown tokens, values of the wrong type.
absl::StatusOr<TokenizerParts> ReadTokenizerParts(const JsonView& root);

}  // namespace polystrate
