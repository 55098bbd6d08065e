// Text as Python sees it: a row of code points, with Unicode's white space and letter case.
//
// All input and output is valid UTF-8; positions are code points unless said otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace polystrate::jinja {

// str.isspace of one character, which is also what \s matches.
bool IsSpace(uint32_t code_point);
bool IsPrintable(uint32_t code_point);  // str.isprintable
bool IsNameStart(uint32_t code_point);  // of an identifier
bool IsNameContinue(uint32_t code_point);

void AppendUtf8(uint32_t code_point, std::string& text);
int64_t NumCodePoints(std::string_view text);
// The byte at which code point `index` starts; text.size() for those past the end.
size_t ByteOffset(std::string_view text, int64_t index);
// Bytes of white space at the start, and where the white space at the end starts.
size_t LeadingSpace(std::string_view text);
size_t TrailingSpace(std::string_view text);

enum Sides : uint8_t { kLeft = 1, kRight = 2, kBoth = 3 };
std::string_view Strip(std::string_view text, Sides sides);
// Strips any of the characters in `characters`.
std::string_view StripCharacters(std::string_view text, std::string_view characters, Sides sides);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);  // the first letter in title case, the rest lower
std::string Title(std::string_view text);  // letters behind others lower, the rest in title case
bool HasCased(std::string_view text, bool upper);  // str.isupper, str.islower

// `text` with up to `count` (all: -1) of `from` replaced.
std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count);

}  // namespace polystrate::jinja
