#include "engine/jinja/json_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

class Reader {
 public:
  Reader(std::string_view text, std::string_view document) : text_(text), document_(document) {}
  absl::StatusOr<Value> Run();

 private:
  absl::StatusOr<Value> One(int depth);
  absl::StatusOr<Value> Array(int depth);
  absl::StatusOr<Value> Object(int depth);
  absl::StatusOr<Value> Number();
  absl::StatusOr<std::string> String();
  absl::Status Escape(std::string& value);
  absl::StatusOr<uint32_t> HexDigits();

  char Here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Skip(char c) {
    const bool here = at_ < text_.size() && text_[at_] == c;
    at_ += here ? 1 : 0;
    return here;
  }
  void SkipSpace() {
    while (Here() == ' ' || Here() == '\n' || Here() == '\r' || Here() == '\t') ++at_;
  }
  absl::Status Error(std::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: not valid JSON at byte %d: %s", document_, at_, what));
  }

  const std::string_view text_;
  const std::string_view document_;
  size_t at_ = 0;
};

absl::StatusOr<Value> Reader::Run() {
  const size_t invalid = FirstInvalidUtf8(text_);
  if (invalid < text_.size()) {
    at_ = invalid;
    return Error("not UTF-8");
  }
  ASSIGN_OR_RETURN(Value value, One(0));
  if (at_ < text_.size()) return Error("expected the end");
  return value;
}

// With the white space on both sides.
absl::StatusOr<Value> Reader::One(int depth) {
  if (depth > kMaxJsonNesting) {
    return Error(absl::StrCat("nested deeper than ", kMaxJsonNesting, " levels"));
  }
  SkipSpace();
  Value value;
  constexpr std::string_view kWords[] = {"true", "false", "null"};
  size_t word = 0;
  while (word < 3 && text_.substr(at_, kWords[word].size()) != kWords[word]) ++word;
  if (word < 3) {
    value = word == 2 ? Value::None() : Value(word == 0);
    at_ += kWords[word].size();
  } else if (Here() == '"') {
    ASSIGN_OR_RETURN(std::string text, String());
    value = Value::Text(std::move(text));
  } else if (Here() == '[') {
    ASSIGN_OR_RETURN(value, Array(depth));
  } else if (Here() == '{') {
    ASSIGN_OR_RETURN(value, Object(depth));
  } else {
    ASSIGN_OR_RETURN(value, Number());
  }
  SkipSpace();
  return value;
}

absl::StatusOr<Value> Reader::Array(int depth) {
  ++at_;
  std::vector<Value> items;
  SkipSpace();
  if (Skip(']')) return Value::List({});
  do {
    ASSIGN_OR_RETURN(Value item, One(depth + 1));
    items.push_back(std::move(item));
  } while (Skip(','));
  if (!Skip(']')) return Error("expected , or ]");
  return Value::List(std::move(items));
}

absl::StatusOr<Value> Reader::Object(int depth) {
  ++at_;
  std::vector<std::pair<std::string, Value>> members;
  SkipSpace();
  if (Skip('}')) return Value::Object({});
  do {
    SkipSpace();
    if (Here() != '"') return Error("expected a key in quotes");
    ASSIGN_OR_RETURN(std::string key, String());
    SkipSpace();
    if (!Skip(':')) return Error("expected :");
    ASSIGN_OR_RETURN(Value value, One(depth + 1));
    members.emplace_back(std::move(key), std::move(value));
  } while (Skip(','));
  if (!Skip('}')) return Error("expected , or }");
  return Value::Object(std::move(members));
}

absl::StatusOr<Value> Reader::Number() {
  const size_t begin = at_;
  const auto digits = [this] {
    const size_t first = at_;
    while (Here() >= '0' && Here() <= '9') ++at_;
    return at_ - first;
  };
  Skip('-');
  const bool zero = Here() == '0';
  const size_t num_digits = digits();
  if (num_digits == 0 || (zero && num_digits > 1)) return Error("expected a value");
  bool real = false;
  if (Skip('.')) {
    real = true;
    if (digits() == 0) return Error("expected a digit");
  }
  if (Skip('e') || Skip('E')) {
    real = true;
    if (!Skip('+')) Skip('-');
    if (digits() == 0) return Error("expected a digit");
  }
  const std::string number(text_.substr(begin, at_ - begin));
  int64_t integer = 0;
  if (!real &&
      std::from_chars(number.data(), number.data() + number.size(), integer).ec == std::errc()) {
    return Value(integer);
  }
  const double value = std::strtod(number.c_str(), nullptr);
  if (!std::isfinite(value)) return Error("a number outside double's range");
  return Value(value);
}

absl::StatusOr<std::string> Reader::String() {
  ++at_;
  std::string value;
  while (at_ < text_.size() && text_[at_] != '"') {
    if (static_cast<unsigned char>(text_[at_]) < 0x20) return Error("a control character");
    if (text_[at_] == '\\') {
      ++at_;
      RETURN_IF_ERROR(Escape(value));
    } else {
      value += text_[at_++];
    }
  }
  if (!Skip('"')) return Error("a string that does not end");
  return value;
}

absl::StatusOr<uint32_t> Reader::HexDigits() {
  uint32_t code = 0;
  const std::string_view digits = text_.substr(at_, 4);
  const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
  if (digits.size() != 4 || read.ptr != digits.data() + 4) return Error("expected 4 hex digits");
  at_ += 4;
  return code;
}

// Behind the backslash.
absl::Status Reader::Escape(std::string& value) {
  constexpr std::string_view kLetters = "\"\\/bfnrt";
  constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
  const size_t known = at_ < text_.size() ? kLetters.find(text_[at_]) : std::string_view::npos;
  if (known != std::string_view::npos) {
    value += kMeanings[known];
    ++at_;
    return absl::OkStatus();
  }
  if (!Skip('u')) return Error("an unknown escape");
  ASSIGN_OR_RETURN(uint32_t code, HexDigits());
  if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_, 2) == "\\u") {
    at_ += 2;
    ASSIGN_OR_RETURN(const uint32_t low, HexDigits());
    if (low < 0xdc00 || low > 0xdfff) return Error("half of a surrogate pair");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  if (code >= 0xd800 && code < 0xe000) return Error("half of a surrogate pair");
  AppendUtf8(code, value);
  return absl::OkStatus();
}

class Writer {
 public:
  Writer(Heap& heap, const JsonStyle& style) : heap_(heap), style_(style) {}
  absl::Status One(const Value& value, int depth);
  std::string TakeText() { return std::move(text_); }

 private:
  absl::Status Array(const std::vector<Value>& items, int depth);
  absl::Status Object(const Dict& dict, int depth);
  absl::StatusOr<std::string> Key(const Value& key) const;
  void Quote(std::string_view text);
  void Line(int depth) {
    if (!style_.lines) return;
    text_ += '\n';
    for (int i = 0; i < depth; ++i) text_ += style_.indent;
  }

  Heap& heap_;
  const JsonStyle& style_;
  std::string text_;
};

std::string FloatJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return FloatText(value);
}

absl::Status Writer::One(const Value& value, int depth) {
  RETURN_IF_ERROR(heap_.Step());
  RETURN_IF_ERROR(heap_.CheckTextSize(static_cast<int64_t>(text_.size())));
  switch (value.type()) {
    case Type::kNone:
      text_ += "null";
      return absl::OkStatus();
    case Type::kBool:
      text_ += value.boolean() ? "true" : "false";
      return absl::OkStatus();
    case Type::kInt:
      absl::StrAppend(&text_, value.integer());
      return absl::OkStatus();
    case Type::kFloat:
      text_ += FloatJson(value.real());
      return absl::OkStatus();
    case Type::kString:
      RETURN_IF_ERROR(heap_.Step(static_cast<int64_t>(value.text().size() / 64)));
      Quote(value.text());
      return absl::OkStatus();
    case Type::kDict:
      return Object(value.dict(), depth);
    case Type::kSequence:
      if (value.sequence().kind <= SequenceKind::kTuple) return Array(value.items(), depth);
      [[fallthrough]];
    default:
      if (value.IsUndefined()) return IsUndefinedError(value.undefined());
      return absl::InvalidArgumentError(
          absl::StrFormat("a value of type '%s' cannot become JSON", value.TypeName()));
  }
}

absl::Status Writer::Array(const std::vector<Value>& items, int depth) {
  text_ += '[';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text_ += style_.item_separator;
    Line(depth + 1);
    RETURN_IF_ERROR(One(items[i], depth + 1));
  }
  if (!items.empty()) Line(depth);
  text_ += ']';
  return absl::OkStatus();
}

absl::StatusOr<std::string> Writer::Key(const Value& key) const {
  switch (key.type()) {
    case Type::kString:
      return key.text();
    case Type::kNone:
      return std::string("null");
    case Type::kBool:
      return std::string(key.boolean() ? "true" : "false");
    case Type::kInt:
      return absl::StrCat(key.integer());
    case Type::kFloat:
      return FloatJson(key.real());
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("a key of type '%s' cannot become JSON", key.TypeName()));
  }
}

absl::Status Writer::Object(const Dict& dict, int depth) {
  std::vector<std::pair<std::string, const Value*>> members;
  members.reserve(dict.members().size());
  for (const auto& [key, value] : dict.members()) {
    ASSIGN_OR_RETURN(std::string name, Key(key));
    members.emplace_back(std::move(name), &value);
  }
  if (style_.sort_keys) {
    std::stable_sort(members.begin(), members.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  }
  text_ += '{';
  bool first = true;
  for (const auto& [key, value] : members) {
    if (!first) text_ += style_.item_separator;
    first = false;
    Line(depth + 1);
    Quote(key);
    text_ += style_.key_separator;
    RETURN_IF_ERROR(One(*value, depth + 1));
  }
  if (!first) Line(depth);
  text_ += '}';
  return absl::OkStatus();
}

void Writer::Quote(std::string_view text) {
  constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t";
  constexpr std::string_view kLetters = "\"\\bfnrt";
  text_ += '"';
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const uint32_t c = step.code_point;
    const size_t known = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
    if (known != std::string_view::npos) {
      text_ += '\\';
      text_ += kLetters[known];
    } else if (c < 0x20 || (c >= 0x7f && c < 0x10000 && style_.ensure_ascii && c != 0x7f)) {
      absl::StrAppendFormat(&text_, "\\u%04x", c);
    } else if (c >= 0x10000 && style_.ensure_ascii) {
      absl::StrAppendFormat(&text_, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                            0xdc00 + ((c - 0x10000) & 0x3ff));
    } else {
      text_ += text.substr(0, step.num_bytes);
    }
    text.remove_prefix(step.num_bytes);
  }
  text_ += '"';
}

}  // namespace

absl::StatusOr<Value> ReadJson(std::string_view text, std::string_view document) {
  return Reader(text, document).Run();
}

absl::StatusOr<std::string> WriteJson(Heap& heap, const Value& value, const JsonStyle& style) {
  Writer writer(heap, style);
  RETURN_IF_ERROR(writer.One(value, 0));
  std::string text = writer.TakeText();
  RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(text.size())));
  return text;
}

}  // namespace polystrate::jinja
