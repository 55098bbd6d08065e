// TokenStream: the parser's place in a template's tokens.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/jinja/lexer.h"

namespace polystrate::jinja {

class TokenStream {
 public:
  // `tokens` end with a kEnd, at which the stream stays.
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  int line() const { return current().line; }
  // The current token; the stream moves on.
  const Token& Take();

  bool At(Token::Type type) const { return current().type == type; }
  bool AtName(std::string_view name) const { return At(Token::kName) && current().text == name; }
  bool AtOperator(std::string_view text) const {
    return At(Token::kOperator) && current().text == text;
  }
  // Moves on where that is what stands here.
  bool SkipName(std::string_view name);
  bool SkipOperator(std::string_view text);

  // INVALID_ARGUMENT where something else stands here.
  absl::Status ExpectName(std::string_view name);
  absl::Status ExpectOperator(std::string_view text);
  absl::Status Expect(Token::Type type, std::string_view what);

  // INVALID_ARGUMENT "line N: expected WHAT, got TOKEN".
  absl::Status Unexpected(std::string_view expected) const;

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0;
};

// INVALID_ARGUMENT "line N: WHAT".
absl::Status LineError(int line, std::string_view what);

}  // namespace polystrate::jinja
