#include "engine/jinja/text.h"

#include <unicode/bytestream.h>
#include <unicode/casemap.h>
#include <unicode/uchar.h>

#include <algorithm>

#include "engine/utf8.h"

namespace polystrate::jinja {
namespace {

icu::StringPiece Piece(std::string_view text) {
  return {text.data(), static_cast<int32_t>(text.size())};
}

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// The last character of a text that is not empty.
std::string_view LastCharacter(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && IsContinuation(text[begin])) --begin;
  return text.substr(begin);
}

}  // namespace

bool IsSpace(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_WHITE_SPACE) != 0;
}

bool IsPrintable(uint32_t c) {
  if (c < 0x7f) return c >= 0x20;
  switch (u_charType(static_cast<UChar32>(c))) {
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_SURROGATE:
    case U_PRIVATE_USE_CHAR:
    case U_UNASSIGNED:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
    case U_SPACE_SEPARATOR:
      return false;
    default:
      return true;
  }
}

bool IsNameStart(uint32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_START) != 0;
}

bool IsNameContinue(uint32_t c) {
  if (c < 0x80) return IsNameStart(c) || (c >= '0' && c <= '9');
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_CONTINUE) != 0;
}

void AppendUtf8(uint32_t c, std::string& text) {
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  if (c < 0x800) {
    text += static_cast<char>(0xc0 | (c >> 6));
  } else {
    if (c < 0x10000) {
      text += static_cast<char>(0xe0 | (c >> 12));
    } else {
      text += static_cast<char>(0xf0 | (c >> 18));
      text += static_cast<char>(0x80 | ((c >> 12) & 0x3f));
    }
    text += static_cast<char>(0x80 | ((c >> 6) & 0x3f));
  }
  text += static_cast<char>(0x80 | (c & 0x3f));
}

int64_t NumCodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return !IsContinuation(byte); });
}

size_t ByteOffset(std::string_view text, int64_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) {
    do ++at;
    while (at < text.size() && IsContinuation(text[at]));
  }
  return at;
}

size_t LeadingSpace(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (!IsSpace(step.code_point)) break;
    at += step.num_bytes;
  }
  return at;
}

size_t TrailingSpace(std::string_view text) {
  while (!text.empty()) {
    const std::string_view last = LastCharacter(text);
    if (!IsSpace(DecodeUtf8(last).code_point)) break;
    text.remove_suffix(last.size());
  }
  return text.size();
}

std::string_view Strip(std::string_view text, Sides sides) {
  if ((sides & kRight) != 0) text = text.substr(0, TrailingSpace(text));
  if ((sides & kLeft) != 0) text.remove_prefix(LeadingSpace(text));
  return text;
}

std::string_view StripCharacters(std::string_view text, std::string_view characters, Sides sides) {
  // A character is never part of another's bytes, so finding its bytes is finding it.
  const auto among = [characters](std::string_view one) {
    return characters.find(one) != std::string_view::npos;
  };
  while ((sides & kLeft) != 0 && !text.empty()) {
    const std::string_view first = text.substr(0, DecodeUtf8(text).num_bytes);
    if (!among(first)) break;
    text.remove_prefix(first.size());
  }
  while ((sides & kRight) != 0 && !text.empty()) {
    const std::string_view last = LastCharacter(text);
    if (!among(last)) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::string Upper(std::string_view text) {
  std::string result;
  icu::StringByteSink<std::string> sink(&result);
  UErrorCode error = U_ZERO_ERROR;
  icu::CaseMap::utf8ToUpper("", 0, Piece(text), sink, nullptr, error);
  return result;
}

std::string Lower(std::string_view text) {
  std::string result;
  icu::StringByteSink<std::string> sink(&result);
  UErrorCode error = U_ZERO_ERROR;
  icu::CaseMap::utf8ToLower("", 0, Piece(text), sink, nullptr, error);
  return result;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return {};
  const Utf8Step first = DecodeUtf8(text);
  std::string result = Upper(text.substr(0, first.num_bytes));
  const size_t head = ByteOffset(result, 1);
  if (head < result.size()) {  // a letter that becomes several
    result = result.substr(0, head) + Lower(std::string_view(result).substr(head));
  } else {
    result.clear();
    AppendUtf8(static_cast<uint32_t>(u_totitle(static_cast<UChar32>(first.code_point))), result);
  }
  return result + Lower(text.substr(first.num_bytes));
}

std::string Title(std::string_view text) {
  std::string result;
  bool behind_letter = false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const std::string_view character = text.substr(0, step.num_bytes);
    result += behind_letter ? Lower(character) : Capitalize(character);
    behind_letter = u_hasBinaryProperty(static_cast<UChar32>(step.code_point), UCHAR_CASED) != 0;
    text.remove_prefix(step.num_bytes);
  }
  return result;
}

bool HasCased(std::string_view text, bool upper) {
  bool found = false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    text.remove_prefix(step.num_bytes);
    const auto c = static_cast<UChar32>(step.code_point);
    if (u_charType(c) == U_TITLECASE_LETTER) return false;
    if ((upper ? u_isULowercase(c) : u_isUUppercase(c)) != 0) return false;
    found |= (upper ? u_isUUppercase(c) : u_isULowercase(c)) != 0;
  }
  return found;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count) {
  std::string result;
  size_t at = 0;
  if (from.empty()) {  // before every character, and at the end
    for (; count != 0; --count) {
      result += to;
      if (at == text.size()) return result;
      const size_t num_bytes = DecodeUtf8(text.substr(at)).num_bytes;
      result += text.substr(at, num_bytes);
      at += num_bytes;
    }
    result += text.substr(at);
    return result;
  }
  for (; count != 0; --count) {
    const size_t found = text.find(from, at);
    if (found == std::string_view::npos) break;
    result += text.substr(at, found - at);
    result += to;
    at = found + from.size();
  }
  result += text.substr(at);
  return result;
}

}  // namespace polystrate::jinja
