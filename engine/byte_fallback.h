// Byte fallback: SentencePiece's tokens for the bytes of characters that the vocabulary lacks,
// spelled <0x00> to <0xFF>.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace polystrate {

// "<0x0A>" for 10.
std::string ByteToFallback(uint8_t byte);

// The byte that `token` stands for; nullopt for any other token. Hexadecimal digits may be small.
std::optional<uint8_t> FallbackToByte(std::string_view token);

}  // namespace polystrate
