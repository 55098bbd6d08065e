#include "engine/token_decoder.h"

#include <utility>

#include "engine/byte_fallback.h"
#include "engine/byte_level.h"
#include "engine/metaspace.h"
#include "engine/normalizer.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

bool IsOneCharacter(std::string_view text) {
  return !text.empty() && DecodeUtf8(text).num_bytes == text.size();
}

}  // namespace

absl::StatusOr<TokenDecoder> TokenDecoder::Read(const JsonView& root) {
  ASSIGN_OR_RETURN(const auto steps, TokenizerComponents(root, "decoder", "decoders"));
  if (steps.empty()) {
    return TokenizerError(root,
                          "\"decoder\" is missing, expected ByteLevel, Metaspace or a Sequence");
  }
  TokenDecoder decoder;
  ASSIGN_OR_RETURN(const std::string first, steps[0].GetString("type"));
  decoder.byte_level_ = first == "ByteLevel";
  Progress progress;
  for (const JsonView& step : steps) {
    if (!decoder.byte_level_) {
      RETURN_IF_ERROR(decoder.ReadStep(step, progress));
      continue;
    }
    ASSIGN_OR_RETURN(const std::string type, step.GetString("type"));
    if (type != "ByteLevel") {
      return UnsupportedInTokenizer(root, "decoder", type + " behind ByteLevel");
    }
  }
  return decoder;
}

absl::Status TokenDecoder::ReadStep(const JsonView& step, Progress& progress) {
  ASSIGN_OR_RETURN(const std::string type, step.GetString("type"));
  if (progress.stripped) {
    return UnsupportedInTokenizer(step, "decoder", type + " behind Strip");
  }
  if (type == "Replace") return ReadReplace(step, progress);
  if (type == "Fuse") {
    progress.fused = true;
    return absl::OkStatus();
  }
  if (type == "Strip") {
    progress.stripped = true;
    return ReadStrip(step, progress);
  }
  // What is left needs the tokens as they were.
  if (type != "ByteFallback" && type != "Metaspace") {
    return UnsupportedInTokenizer(step, "decoder", type);
  }
  if (progress.fused || progress.byte_fallback) {
    return UnsupportedInTokenizer(
        step, "decoder", type + (progress.fused ? " behind Fuse" : " behind ByteFallback"));
  }
  if (type == "Metaspace") return ReadMetaspace(step);
  progress.byte_fallback = true;
  byte_fallback_ = true;
  return absl::OkStatus();
}

absl::Status TokenDecoder::ReadReplace(const JsonView& step, Progress& progress) {
  Replacement replacement;
  ASSIGN_OR_RETURN(replacement.pattern, LiteralPattern(step, "decoder"));
  ASSIGN_OR_RETURN(replacement.content, step.GetString("content"));
  RETURN_IF_ERROR(
      progress.growth.Add(step, replacement.pattern.size(), replacement.content.size()));
  replacement.in_runs = progress.byte_fallback;
  // A longer one could begin in one token and end in the next.
  if (progress.fused && !IsOneCharacter(replacement.pattern)) {
    return UnsupportedInTokenizer(step, "decoder", "Replace of several characters behind Fuse");
  }
  replacements_.push_back(std::move(replacement));
  return absl::OkStatus();
}

absl::Status TokenDecoder::ReadStrip(const JsonView& step, const Progress& progress) {
  if (!progress.fused)
    return UnsupportedInTokenizer(step, "decoder", "Strip without Fuse before it");
  ASSIGN_OR_RETURN(strip_, step.GetString("content"));
  if (!IsOneCharacter(strip_)) return step.Find("content")->Unexpected("content", "one character");
  ASSIGN_OR_RETURN(strip_count_, step.GetIntOr("start", 0));
  ASSIGN_OR_RETURN(const int64_t stop, step.GetIntOr("stop", 0));
  if (stop != 0) return UnsupportedInTokenizer(step, "decoder", "Strip at the end");
  return absl::OkStatus();
}

absl::Status TokenDecoder::ReadMetaspace(const JsonView& step) {
  if (!replacements_.empty()) {
    return UnsupportedInTokenizer(step, "decoder", "Metaspace behind Replace");
  }
  ASSIGN_OR_RETURN(Metaspace metaspace, Metaspace::Read(step, "decoder"));
  if (metaspace.prepend != Metaspace::kNever) first_mark_ = metaspace.mark;
  replacements_.push_back({std::move(metaspace.mark), " ", /*in_runs=*/false});
  return absl::OkStatus();
}

std::string TokenDecoder::Bytes(std::string_view spelling) const {
  // A token that the alphabet cannot spell, such as a run of plain spaces, stands for itself.
  // Added tokens that it can spell are bytes too: this is how `tokenizers` decodes them.
  if (byte_level_) return AlphabetToBytes(spelling).value_or(std::string(spelling));
  if (const auto byte = FallbackByte(spelling)) return std::string(1, static_cast<char>(*byte));
  std::string text(spelling);
  for (const Replacement& one : replacements_) text = ReplaceAll(text, one.pattern, one.content);
  return text;
}

std::optional<uint8_t> TokenDecoder::FallbackByte(std::string_view spelling) const {
  return byte_fallback_ ? FallbackToByte(spelling) : std::nullopt;
}

std::string TokenDecoder::RunText(std::string_view bytes) const {
  std::string text(bytes);
  for (const Replacement& one : replacements_) {
    if (one.in_runs) text = ReplaceAll(text, one.pattern, one.content);
  }
  return text;
}

std::string TokenDecoder::FirstBytes(std::string_view spelling) const {
  return Bytes(first_differs() ? ReplaceAll(spelling, first_mark_, "") : std::string(spelling));
}

}  // namespace polystrate
