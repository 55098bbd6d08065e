#include "engine/jinja/lexer.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

constexpr size_t kNone = std::string::npos;

// Every line end becomes \n, and the one at the end of the text goes.
std::string NormalizeLines(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\r') {
      result += text[i];
      continue;
    }
    result += '\n';
    if (i + 1 < text.size() && text[i + 1] == '\n') ++i;
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(const std::string& text) : source_(NormalizeLines(text)) {}
  absl::StatusOr<std::vector<Token>> Run();

 private:
  absl::Status Tag(size_t begin, bool block);
  absl::Status Comment(size_t begin);
  absl::StatusOr<bool> Raw(size_t begin);
  bool TagEnds(bool block);
  absl::Status TagToken();
  absl::Status Name();
  absl::Status Number();
  absl::Status StringLiteral();
  absl::StatusOr<uint32_t> HexEscape(size_t num_digits);
  absl::Status Escape(std::string& value);
  absl::Status OperatorToken();

  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Looking(std::string_view at) const { return Rest().substr(0, at.size()) == at; }
  // Moves on, counting lines.
  void MoveTo(size_t end);
  void MoveOverSpace() { MoveTo(at_ + LeadingSpace(Rest())); }
  // Text before a tag; `sign` is what stands behind the tag's opening.
  void Data(std::string_view text, char sign, bool lstrip);
  char SignAt(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }
  void Add(Token::Type type, std::string text = {}) { tokens_.push_back({type, line_, text}); }
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrFormat("line %d: %s", line_, what));
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // what was read last ended a line
  std::string brackets_;       // that close what is open in this tag
  std::vector<Token> tokens_;
};

void Lexer::MoveTo(size_t end) {
  for (; at_ < end; ++at_) line_ += source_[at_] == '\n';
}

void Lexer::Data(std::string_view text, char sign, bool lstrip) {
  if (sign == '-') {
    text = text.substr(0, TrailingSpace(text));
  } else if (sign != '+' && lstrip) {
    const size_t newline = text.rfind('\n');
    const size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
    if (begin > 0 || line_starting_) {
      if (LeadingSpace(text.substr(begin)) == text.size() - begin) text = text.substr(0, begin);
    }
  }
  if (!text.empty()) Add(Token::kData, std::string(text));
}

absl::StatusOr<std::vector<Token>> Lexer::Run() {
  while (at_ < source_.size()) {
    size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == kNone || tag + 1 >= source_.size()) tag = kNone;
      if (tag == kNone) break;
      const char next = source_[tag + 1];
      if (next == '{' || next == '%' || next == '#') break;
    }
    if (tag == kNone) {
      Add(Token::kData, source_.substr(at_));
      MoveTo(source_.size());
      break;
    }
    const char kind = source_[tag + 1];
    const char sign = SignAt(tag + 2);
    Data(std::string_view(source_).substr(at_, tag - at_), sign, /*lstrip=*/kind != '{');
    MoveTo(tag);
    const size_t begin = tag + 2 + (sign != '\0' ? 1 : 0);
    if (kind == '#') {
      RETURN_IF_ERROR(Comment(begin));
      continue;
    }
    if (kind == '%') {
      ASSIGN_OR_RETURN(const bool raw, Raw(begin));
      if (raw) continue;
    }
    RETURN_IF_ERROR(Tag(begin, kind == '%'));
  }
  Add(Token::kEnd);
  return std::move(tokens_);
}

// At the start of what closes a tag or comment; '-' takes the white space behind it, '+' nothing,
// and without a sign one line end goes where `trim` says so.
absl::Status Lexer::Comment(size_t begin) {
  const size_t end = source_.find("#}", begin);
  if (end == kNone) return Error("a comment that does not end");
  const char sign = end > begin ? SignAt(end - 1) : '\0';
  MoveTo(end + 2);
  if (sign == '-') {
    MoveOverSpace();
  } else if (sign != '+' && Looking("\n")) {
    MoveTo(at_ + 1);
  }
  line_starting_ = source_[at_ - 1] == '\n';
  return absl::OkStatus();
}

absl::StatusOr<bool> Lexer::Raw(size_t begin) {
  const std::string_view source = source_;
  size_t at = begin + LeadingSpace(source.substr(begin));
  if (source.substr(at, 3) != "raw") return false;
  at += 3;
  at += LeadingSpace(source.substr(at));
  if (source.substr(at, 3) == "-%}") {
    at += 3;
    at += LeadingSpace(source.substr(at));
  } else if (source.substr(at, 2) == "%}") {
    at += 2;
  } else {
    return false;
  }
  MoveTo(at);
  line_starting_ = source_[at_ - 1] == '\n';
  for (size_t tag = source.find("{%", at_); tag != kNone; tag = source.find("{%", tag + 1)) {
    const char sign = SignAt(tag + 2);
    size_t end = tag + 2 + (sign != '\0' ? 1 : 0);
    end += LeadingSpace(source.substr(end));
    if (source.substr(end, 6) != "endraw") continue;
    end += 6;
    end += LeadingSpace(source.substr(end));
    const char closing = SignAt(end);
    end += closing != '\0' ? 1 : 0;
    if (source.substr(end, 2) != "%}") continue;
    Data(source.substr(at_, tag - at_), sign, /*lstrip=*/true);
    MoveTo(end + 2);
    if (closing == '-') MoveOverSpace();
    if (closing == '\0' && Looking("\n")) MoveTo(at_ + 1);
    line_starting_ = source_[at_ - 1] == '\n';
    return true;
  }
  return Error("a raw block that does not end");
}

bool Lexer::TagEnds(bool block) {
  if (!brackets_.empty()) return false;
  const std::string_view closing = block ? "%}" : "}}";
  const char sign = SignAt(at_);
  if (sign == '+' && !block) return false;
  if (Rest().substr(sign != '\0' ? 1 : 0, 2) != closing) return false;
  Add(block ? Token::kBlockEnd : Token::kVariableEnd);
  MoveTo(at_ + (sign != '\0' ? 3 : 2));
  if (sign == '-') MoveOverSpace();
  if (sign == '\0' && block && Looking("\n")) MoveTo(at_ + 1);
  line_starting_ = source_[at_ - 1] == '\n';
  return true;
}

absl::Status Lexer::Tag(size_t begin, bool block) {
  Add(block ? Token::kBlockBegin : Token::kVariableBegin);
  const int opened = line_;
  MoveTo(begin);
  brackets_.clear();
  while (!TagEnds(block)) {
    if (at_ == source_.size()) {
      return Error(absl::StrCat("the tag that opens in line ", opened, " does not end"));
    }
    RETURN_IF_ERROR(TagToken());
  }
  return absl::OkStatus();
}

absl::Status Lexer::TagToken() {
  const size_t space = LeadingSpace(Rest());
  if (space > 0) {
    MoveTo(at_ + space);
    return absl::OkStatus();
  }
  const char c = source_[at_];
  if (IsDigit(c)) return Number();
  if (c == '\'' || c == '"') return StringLiteral();
  if (IsNameStart(DecodeUtf8(Rest()).code_point)) return Name();
  return OperatorToken();
}

absl::Status Lexer::Name() {
  size_t end = at_;
  while (end < source_.size()) {
    const Utf8Step step = DecodeUtf8(std::string_view(source_).substr(end));
    if (!IsNameContinue(step.code_point)) break;
    end += step.num_bytes;
  }
  Add(Token::kName, source_.substr(at_, end - at_));
  MoveTo(end);
  return absl::OkStatus();
}

// Digits, with single underscores between them, as Python writes long numbers.
size_t DigitsEnd(std::string_view text, size_t at) {
  while (at < text.size() &&
         (IsDigit(text[at]) || (text[at] == '_' && at > 0 && IsDigit(text[at - 1]) &&
                                at + 1 < text.size() && IsDigit(text[at + 1])))) {
    ++at;
  }
  return at;
}

absl::Status Lexer::Number() {
  const std::string_view source = source_;
  const auto digit_at = [source](size_t at) { return at < source.size() && IsDigit(source[at]); };
  size_t end = DigitsEnd(source, at_);
  bool real = false;
  if (at_ == 0 || source[at_ - 1] != '.') {
    if (end < source.size() && source[end] == '.' && digit_at(end + 1)) {
      end = DigitsEnd(source, end + 1);
      real = true;
    }
    if (end < source.size() && (source[end] == 'e' || source[end] == 'E')) {
      const size_t sign = SignAt(end + 1) != '\0' ? 1 : 0;
      if (digit_at(end + 1 + sign)) {
        end = DigitsEnd(source, end + 1 + sign);
        real = true;
      }
    }
  }
  std::string digits;
  for (const char c : source.substr(at_, end - at_)) {
    if (c != '_') digits += c;
  }
  Add(real ? Token::kFloat : Token::kInteger, digits);
  Token& token = tokens_.back();
  if (real) {
    token.real = std::strtod(digits.c_str(), nullptr);
  } else {
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer);
    if (read.ec != std::errc()) return Error(absl::StrCat("the integer ", digits, " is too large"));
    if (digits.size() > 1 && digits[0] == '0' && token.integer != 0) {
      return Error(absl::StrCat("the number ", digits, " starts with 0"));
    }
  }
  MoveTo(end);
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> Lexer::HexEscape(size_t num_digits) {
  const std::string_view digits = Rest().substr(0, num_digits);
  uint32_t code_point = 0;
  const auto read =
      std::from_chars(digits.data(), digits.data() + digits.size(), code_point, /*base=*/16);
  if (digits.size() != num_digits || read.ptr != digits.data() + digits.size()) {
    return Error(absl::StrCat("an escape that takes ", num_digits, " hexadecimal digits"));
  }
  if (code_point > 0x10ffff || (code_point >= 0xd800 && code_point < 0xe000)) {
    return Error("an escape that is no character");
  }
  MoveTo(at_ + num_digits);
  return code_point;
}

// Behind a backslash.
absl::Status Lexer::Escape(std::string& value) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv";
  constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
  const char c = source_[at_];
  const size_t known = kLetters.find(c);
  if (known != std::string_view::npos || c == '\n') {
    if (c != '\n') value += kMeanings[known];  // a line that goes on
    MoveTo(at_ + 1);
  } else if (c >= '0' && c <= '7') {
    uint32_t code_point = 0;
    for (int i = 0; i < 3 && at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '7';
         ++i, ++at_) {
      code_point = code_point * 8 + static_cast<uint32_t>(source_[at_] - '0');
    }
    AppendUtf8(code_point, value);
  } else if (c == 'x' || c == 'u' || c == 'U') {
    MoveTo(at_ + 1);
    ASSIGN_OR_RETURN(const uint32_t code_point, HexEscape(c == 'x' ? 2 : c == 'u' ? 4 : 8));
    AppendUtf8(code_point, value);
  } else if (c == 'N') {
    return Error("characters by name (\\N) are not supported");
  } else {
    value += '\\';  // and the character itself comes next
  }
  return absl::OkStatus();
}

absl::Status Lexer::StringLiteral() {
  const char quote = source_[at_];
  Add(Token::kString);
  std::string value;
  MoveTo(at_ + 1);
  while (at_ < source_.size() && source_[at_] != quote) {
    if (source_[at_] != '\\') {
      value += source_[at_];
      MoveTo(at_ + 1);
      continue;
    }
    MoveTo(at_ + 1);
    if (at_ == source_.size()) break;
    RETURN_IF_ERROR(Escape(value));
  }
  if (at_ == source_.size()) return Error("a string that does not end");
  MoveTo(at_ + 1);
  tokens_.back().text = std::move(value);
  return absl::OkStatus();
}

absl::Status Lexer::OperatorToken() {
  constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
  constexpr std::string_view kSingle = "+-/*%~[](){}><=.:|,;";
  std::string_view found = kSingle.find(source_[at_]) != kNone ? Rest().substr(0, 1) : "";
  for (const std::string_view two : kDouble) {
    if (Looking(two)) found = two;
  }
  if (found.empty()) {
    const std::string_view character = Rest().substr(0, DecodeUtf8(Rest()).num_bytes);
    return Error(
        absl::StrCat("unexpected '", absl::string_view(character.data(), character.size()), "'"));
  }
  const char c = found[0];
  if (c == '(') brackets_ += ')';
  if (c == '[') brackets_ += ']';
  if (c == '{') brackets_ += '}';
  if (c == ')' || c == ']' || c == '}') {
    if (brackets_.empty() || brackets_.back() != c) {
      return Error(absl::StrCat("unexpected '", std::string(1, c), "'"));
    }
    brackets_.pop_back();
  }
  Add(Token::kOperator, std::string(found));
  MoveTo(at_ + found.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(const std::string& text) { return Lexer(text).Run(); }

}  // namespace polystrate::jinja
