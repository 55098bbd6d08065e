#include "engine/jinja/token_stream.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace polystrate::jinja {
namespace {

std::string Describe(const Token& token) {
  switch (token.type) {
    case Token::kData:
      return "text";
    case Token::kBlockBegin:
      return "'{%'";
    case Token::kBlockEnd:
      return "'%}'";
    case Token::kVariableBegin:
      return "'{{'";
    case Token::kVariableEnd:
      return "'}}'";
    case Token::kString:
      return "a string";
    case Token::kEnd:
      return "the end of the template";
    default:
      return absl::StrCat("'", token.text.substr(0, 60), "'");
  }
}

}  // namespace

const Token& TokenStream::Take() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::SkipName(std::string_view name) {
  const bool here = AtName(name);
  if (here) Take();
  return here;
}

bool TokenStream::SkipOperator(std::string_view text) {
  const bool here = AtOperator(text);
  if (here) Take();
  return here;
}

absl::Status TokenStream::ExpectName(std::string_view name) {
  if (SkipName(name)) return absl::OkStatus();
  return Unexpected(std::string("'").append(name).append("'"));
}

absl::Status TokenStream::ExpectOperator(std::string_view text) {
  if (SkipOperator(text)) return absl::OkStatus();
  return Unexpected(std::string("'").append(text).append("'"));
}

absl::Status TokenStream::Expect(Token::Type type, std::string_view what) {
  if (!At(type)) return Unexpected(what);
  Take();
  return absl::OkStatus();
}

absl::Status TokenStream::Unexpected(std::string_view expected) const {
  return LineError(line(), absl::StrFormat("expected %s, got %s", expected, Describe(current())));
}

absl::Status LineError(int line, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("line %d: %s", line, what));
}

}  // namespace polystrate::jinja
