#include "engine/byte_level.h"

#include <array>

#include "engine/utf8.h"

namespace polystrate {
namespace {

constexpr uint32_t kAlphabetEnd = 0x144;  // one past the last code point in use

struct Alphabet {
  std::array<uint16_t, 256> code_point{};       // by byte
  std::array<int16_t, kAlphabetEnd> byte_of{};  // by code point; -1 where there is none
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  uint16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    const uint16_t code_point = printable ? static_cast<uint16_t>(byte) : next++;
    alphabet.code_point[static_cast<size_t>(byte)] = code_point;
    alphabet.byte_of[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string ByteToAlphabet(uint8_t byte) {
  const uint16_t code_point = kAlphabet.code_point[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

std::optional<std::string> AlphabetToBytes(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Step step = DecodeUtf8(token);
    if (step.status != Utf8Step::kValid || step.code_point >= kAlphabetEnd) return std::nullopt;
    const int16_t byte = kAlphabet.byte_of[step.code_point];
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
    token.remove_prefix(step.num_bytes);
  }
  return bytes;
}

}  // namespace polystrate
