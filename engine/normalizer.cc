#include "engine/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "engine/tokenizer_json.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// NFC as `tokenizers` computes it, with the tables of Unicode 9.0 (tested over every code point).
// ICU is newer and would reorder marks that were assigned since; those pass unchanged, which is
// what NFC does to code points that it does not know.
const icu::Normalizer2& Nfc() {
  static const icu::UnicodeSet* const known = [] {
    UErrorCode error = U_ZERO_ERROR;
    auto* set = new icu::UnicodeSet(UNICODE_STRING_SIMPLE("[:age=9.0:]"), error);
    CHECK(U_SUCCESS(error));
    set->freeze();
    return set;
  }();
  static const icu::Normalizer2* const nfc = [] {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* all = icu::Normalizer2::getNFCInstance(error);
    CHECK(U_SUCCESS(error));  // ICU carries the data of NFC in its code
    return new icu::FilteredNormalizer2(*all, *known);
  }();
  return *nfc;
}

// Whether `result` was written; otherwise `text` is in NFC.
bool ToNfc(std::string_view text, std::string& result) {
  // No character below U+0300, whose first byte is 0xcc, takes part in a composition by itself.
  if (std::none_of(text.begin(), text.end(),
                   [](char c) { return static_cast<unsigned char>(c) >= 0xcc; })) {
    return false;
  }
  CHECK_LE(text.size(), static_cast<size_t>(INT32_MAX));
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  UErrorCode error = U_ZERO_ERROR;
  if (Nfc().isNormalizedUTF8(piece, error) && U_SUCCESS(error)) return false;
  result.clear();
  icu::StringByteSink<std::string> sink(&result);
  Nfc().normalizeUTF8(0, piece, sink, nullptr, error);
  CHECK(U_SUCCESS(error));
  return true;
}

}  // namespace

std::string ReplaceAll(std::string_view text, std::string_view pattern, std::string_view content) {
  CHECK(!pattern.empty());
  std::string result;
  result.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(pattern); at != text.npos; at = text.find(pattern, done)) {
    result.append(text, done, at - done).append(content);
    done = at + pattern.size();
  }
  return result.append(text, done);
}

absl::StatusOr<Normalizer> Normalizer::Read(const JsonView& root) {
  ASSIGN_OR_RETURN(const auto components, TokenizerComponents(root, "normalizer", "normalizers"));
  std::vector<Step> steps;
  TextGrowth growth("normalizer");
  for (const JsonView& component : components) {
    ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
    Step step;
    if (type == "Prepend") {
      step.kind = Step::kPrepend;
      ASSIGN_OR_RETURN(step.content, component.GetString("prepend"));
      RETURN_IF_ERROR(growth.Add(component, 1, 1 + step.content.size()));
    } else if (type == "Replace") {
      step.kind = Step::kReplace;
      ASSIGN_OR_RETURN(step.pattern, LiteralPattern(component, "normalizer"));
      ASSIGN_OR_RETURN(step.content, component.GetString("content"));
      RETURN_IF_ERROR(growth.Add(component, step.pattern.size(), step.content.size()));
    } else if (type != "NFC") {
      return UnsupportedInTokenizer(root, "normalizer", type);
    }
    steps.push_back(std::move(step));
  }
  return Normalizer(std::move(steps));
}

std::string_view Normalizer::Apply(std::string_view text, std::string& storage) const {
  std::string result;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::kNfc:
        if (!ToNfc(text, result)) continue;
        break;
      case Step::kPrepend:
        if (text.empty()) continue;
        result = step.content;
        result += text;
        break;
      case Step::kReplace:
        if (text.find(step.pattern) == text.npos) continue;
        result = ReplaceAll(text, step.pattern, step.content);
        break;
    }
    storage.swap(result);
    text = storage;
  }
  return text;
}

}  // namespace polystrate
