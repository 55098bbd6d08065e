#include "engine/utf8.h"

#include <cstring>

#include "kernels/core/check.h"

namespace polystrate {

Utf8Step DecodeUtf8(std::string_view text) {
  CHECK(!text.empty());
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
  const unsigned lead = bytes[0];
  if (lead < 0x80) return {Utf8Step::kValid, 1, lead};
  if (lead < 0xc2 || lead > 0xf4) return {Utf8Step::kInvalid, 1, 0};
  const unsigned length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint32_t code_point = lead & (0x7fu >> length);
  for (unsigned i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Step::kIncomplete, static_cast<uint8_t>(i), 0};
    // The second byte's range excludes overlong forms, surrogates and what lies over U+10FFFF.
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (i == 1) {
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xed) high = 0x9f;
      if (lead == 0xf4) high = 0x8f;
    }
    if (bytes[i] < low || bytes[i] > high) return {Utf8Step::kInvalid, static_cast<uint8_t>(i), 0};
    code_point = (code_point << 6) | (bytes[i] & 0x3fu);
  }
  return {Utf8Step::kValid, static_cast<uint8_t>(length), code_point};
}

size_t FirstInvalidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof(eight) <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        i += sizeof(eight);
        continue;
      }
    }
    const Utf8Step step = DecodeUtf8(text.substr(i));
    if (step.status != Utf8Step::kValid) return i;
    i += step.num_bytes;
  }
  return text.size();
}

size_t AppendDecodable(std::string_view bytes, std::string& text) {
  size_t done = 0;
  while (done < bytes.size()) {
    const std::string_view rest = bytes.substr(done);
    const size_t valid = FirstInvalidUtf8(rest);
    text += rest.substr(0, valid);
    done += valid;
    if (done == bytes.size()) break;
    const Utf8Step step = DecodeUtf8(bytes.substr(done));
    if (step.status == Utf8Step::kIncomplete) break;
    text += kReplacement;
    done += step.num_bytes;
  }
  return done;
}

}  // namespace polystrate
