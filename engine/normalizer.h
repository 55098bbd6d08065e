// Unicode normalisation of text before it is split into tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace polystrate {

enum class Normalization : uint8_t { kNone, kNfc };

// The normalised form of `text`, which must be valid UTF-8. When nothing changes the result is
// `text` itself, otherwise it lies in `storage`. Thread-safe. NFC is that of
// Unicode 9.0, which is what Hugging Face's `tokenizers` has.
std::string_view Normalize(Normalization form, std::string_view text, std::string& storage);

}  // namespace polystrate
