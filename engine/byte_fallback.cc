#include "engine/byte_fallback.h"

#include <charconv>

#include "absl/strings/str_format.h"

namespace polystrate {

std::string ByteToFallback(uint8_t byte) { return absl::StrFormat("<0x%02X>", byte); }

std::optional<uint8_t> FallbackToByte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned byte = 0;
  const char* const end = token.data() + 5;
  const auto [parsed, error] = std::from_chars(token.data() + 3, end, byte, 16);
  if (error != std::errc() || parsed != end) return std::nullopt;
  return static_cast<uint8_t>(byte);
}

}  // namespace polystrate
