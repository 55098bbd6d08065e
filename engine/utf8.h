// UTF-8, one character at a time, as the Unicode standard's table 3-7 defines it: no overlong
// forms, no surrogates, nothing over U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace polystrate {

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// What stands at the start of a byte string.
struct Utf8Step {
  enum Status : uint8_t {
    kValid,       // one character of num_bytes bytes
    kInvalid,     // num_bytes that no continuation can mend: one U+FFFD stands for them
    kIncomplete,  // the text ends inside a character that is well-formed so far
  };
  Status status;
  uint8_t num_bytes;
  uint32_t code_point;  // when kValid
};

// `text` must not be empty. Invalid bytes are grouped as "maximal subparts" (Unicode 3.9, practice
// of W3C, Rust's from_utf8_lossy and Python), so all of them agree on the number of U+FFFD.
Utf8Step DecodeUtf8(std::string_view text);

// Offset of the first byte that is not part of valid UTF-8; text.size() when all is valid.
size_t FirstInvalidUtf8(std::string_view text);

// Appends the text of `bytes` to `text`, U+FFFD in place of what is invalid. Returns how many bytes
// that was: all but a character at the end that is incomplete.
size_t AppendDecodable(std::string_view bytes, std::string& text);

}  // namespace polystrate
