#include "engine/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>

#include "kernels/core/check.h"

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

}  // namespace

std::string_view Normalize(Normalization form, std::string_view text, std::string& storage) {
  if (form == Normalization::kNone) return text;
  // No character below U+0300, whose first byte is 0xcc, takes part in a composition by itself.
  if (std::none_of(text.begin(), text.end(),
                   [](char c) { return static_cast<unsigned char>(c) >= 0xcc; })) {
    return text;
  }
  CHECK_LE(text.size(), static_cast<size_t>(INT32_MAX));
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  UErrorCode error = U_ZERO_ERROR;
  if (Nfc().isNormalizedUTF8(piece, error) && U_SUCCESS(error)) return text;
  storage.clear();
  icu::StringByteSink<std::string> sink(&storage);
  Nfc().normalizeUTF8(0, piece, sink, nullptr, error);
  CHECK(U_SUCCESS(error));
  return storage;
}

}  // namespace polystrate
