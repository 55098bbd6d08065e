// Lexer: a template's text to tokens, with the white space around tags already taken away as
// jinja2 does with trim_blocks and lstrip_blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace polystrate::jinja {

struct Token {
  enum Type : uint8_t {
    kData,  // text between tags; never empty
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kName,
    kString,  // text: the string itself
    kInteger,
    kFloat,
    kOperator,  // text: one of + - * / // ** % ~ [ ] ( ) { } == != > >= < <= = . : | , ;
    kEnd,
  };
  Type type;
  int line;
  std::string text;
  int64_t integer = 0;
  double real = 0;
};

// `text` must be valid UTF-8. Ends with a kEnd. INVALID_ARGUMENT starts with "line N: ".
absl::StatusOr<std::vector<Token>> Tokenize(const std::string& text);

}  // namespace polystrate::jinja
