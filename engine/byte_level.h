// The byte-level alphabet of GPT-2 (Radford et al. 2019): each byte has one printable character, so
// that a vocabulary of arbitrary byte strings can be written as text in tokenizer.json.
//
// '!'..'~', U+00A1..U+00AC and U+00AE..U+00FF stand for the byte of the same number; the other 68
// bytes, in order, are U+0100 onwards (so a space is U+0120).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace polystrate {

// The UTF-8 spelling of one byte in the alphabet.
std::string ByteToAlphabet(uint8_t byte);

// The bytes that `token` spells; nullopt when it is not valid UTF-8 or holds a character outside
// the alphabet.
std::optional<std::string> AlphabetToBytes(std::string_view token);

}  // namespace polystrate
