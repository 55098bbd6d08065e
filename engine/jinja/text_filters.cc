// Filters of texts and numbers.
#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>

#include "engine/jinja/filters.h"
#include "engine/jinja/format.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/json_text.h"
#include "engine/jinja/methods.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

absl::StatusOr<Value> Trim(Heap& heap, const Value& self, const Arguments& arguments) {
  Value characters = Value::None();
  RETURN_IF_ERROR(Take(arguments, {{"chars", &characters}}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap, self));
  if (characters.IsNone()) return heap.Text(std::string(Strip(text, kBoth)));
  if (!characters.IsString()) return WrongType(characters, "a text");
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(characters.text().size() / 64 * text.size())));
  return heap.Text(std::string(StripCharacters(text, characters.text(), kBoth)));
}

// Behind each of the characters that begin a word, a capital; unlike str.title().
std::string TitleWords(std::string_view text) {
  std::string result;
  bool starts = true;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const std::string_view character = text.substr(0, step.num_bytes);
    const bool between = IsSpace(step.code_point) ||
                         (step.code_point < 0x80 &&
                          std::string_view("-({[<").find(character) != std::string_view::npos);
    result += starts ? Upper(character) : Lower(character);
    starts = between;
    text.remove_prefix(step.num_bytes);
  }
  return result;
}

std::string Escape(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '&') {
      result += "&amp;";
    } else if (c == '<') {
      result += "&lt;";
    } else if (c == '>') {
      result += "&gt;";
    } else if (c == '"') {
      result += "&#34;";
    } else if (c == '\'') {
      result += "&#39;";
    } else {
      result += c;
    }
  }
  return result;
}

std::string Same(std::string_view text) { return std::string(text); }

template <std::string (*change)(std::string_view)>
absl::StatusOr<Value> Changed(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap, self));
  return heap.Text(change(text));
}

absl::StatusOr<Value> ReplaceFilter(Heap& heap, const Value& self, const Arguments& arguments) {
  Value from;
  Value to;
  Value count = Value::None();
  RETURN_IF_ERROR(Take(arguments, {{"old", &from, false}, {"new", &to, false}, {"count", &count}}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap, self));
  ASSIGN_OR_RETURN(const std::string from_text, Str(heap, from));
  ASSIGN_OR_RETURN(const std::string to_text, Str(heap, to));
  int64_t most = -1;
  if (!count.IsNone()) {
    ASSIGN_OR_RETURN(most, AsInteger(count));
  }
  return ReplaceText(heap, text, from_text, to_text, most);
}

absl::StatusOr<Value> Indent(Heap& heap, const Value& self, const Arguments& arguments) {
  Value width(int64_t{4});
  Value first(false);
  Value blank(false);
  RETURN_IF_ERROR(Take(arguments, {{"width", &width}, {"first", &first}, {"blank", &blank}}));
  if (!self.IsString()) return WrongType(self, "a text");
  std::string indent;
  if (width.IsString()) {
    indent = width.text();
  } else {
    ASSIGN_OR_RETURN(const int64_t num_spaces, AsInteger(width));
    RETURN_IF_ERROR(heap.CheckTextSize(num_spaces));
    indent.assign(static_cast<size_t>(std::max<int64_t>(num_spaces, 0)), ' ');
  }
  const std::string closed = self.text() + "\n";  // so that a line end at the end makes a line
  std::string text = first.IsTrue() ? indent : "";
  bool first_line = true;
  for (const std::string_view line : SplitLines(closed)) {
    if (!first_line) text += '\n';
    if (!first_line && (blank.IsTrue() || !line.empty())) text += indent;
    text += line;
    first_line = false;
    RETURN_IF_ERROR(heap.Step());
    RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(text.size())));
  }
  return heap.Text(std::move(text));
}

absl::StatusOr<Value> Format(Heap& heap, const Value& self, const Arguments& arguments) {
  if (!arguments.keywords.empty()) {
    return absl::InvalidArgumentError("format of values by name is not supported");
  }
  ASSIGN_OR_RETURN(const std::string format, Str(heap, self));
  ASSIGN_OR_RETURN(const Value values, heap.List(arguments.positional, SequenceKind::kTuple));
  return PercentFormat(heap, format, values);
}

absl::StatusOr<Value> Center(Heap& heap, const Value& self, const Arguments& arguments) {
  Value width(int64_t{80});
  RETURN_IF_ERROR(Take(arguments, {{"width", &width}}));
  ASSIGN_OR_RETURN(std::string text, Str(heap, self));
  ASSIGN_OR_RETURN(const Value padded, heap.Text(std::move(text)));
  return CallMethod(heap, padded, "center", {.positional = {width}});
}

absl::StatusOr<Value> WordCount(Heap& heap, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  ASSIGN_OR_RETURN(const std::string text, Str(heap, self));
  int64_t count = 0;
  bool in_word = false;
  for (std::string_view rest = text; !rest.empty();) {
    const Utf8Step step = DecodeUtf8(rest);
    const bool word = IsNameContinue(step.code_point);
    count += word && !in_word ? 1 : 0;
    in_word = word;
    rest.remove_prefix(step.num_bytes);
  }
  return Value(count);
}

// Python's int() and float() of a text; underscores may stand between digits.
std::optional<std::string> PlainNumber(std::string_view text) {
  text = Strip(text, kBoth);
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      plain += text[i];
      continue;
    }
    const auto is_digit = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
    if (i == 0 || i + 1 == text.size() || !is_digit(text[i - 1]) || !is_digit(text[i + 1])) {
      return std::nullopt;
    }
  }
  if (!plain.empty() && plain[0] == '+') {
    plain.erase(0, 1);
    if (!plain.empty() && plain[0] == '-') return std::nullopt;
  }
  return plain;
}

std::optional<double> ReadReal(std::string_view text) {
  const std::optional<std::string> plain = PlainNumber(text);
  if (!plain.has_value() || plain->empty()) return std::nullopt;
  double value = 0;
  const auto read = std::from_chars(plain->data(), plain->data() + plain->size(), value);
  if (read.ptr != plain->data() + plain->size()) return std::nullopt;
  if (plain->find('(') != std::string::npos) return std::nullopt;  // nan(...)
  if (read.ec == std::errc::result_out_of_range) value = std::strtod(plain->c_str(), nullptr);
  return value;
}

std::optional<int64_t> ReadInteger(std::string_view text, int base) {
  std::optional<std::string> plain = PlainNumber(text);
  if (!plain.has_value() || plain->empty()) return std::nullopt;
  const size_t sign = (*plain)[0] == '-' ? 1 : 0;
  const char letter = base == 16 ? 'x' : base == 8 ? 'o' : base == 2 ? 'b' : '\0';
  if (letter != '\0' && plain->size() > sign + 2 && (*plain)[sign] == '0' &&
      ((*plain)[sign + 1] | 0x20) == letter) {
    plain->erase(sign, 2);
  }
  int64_t value = 0;
  const auto read = std::from_chars(plain->data(), plain->data() + plain->size(), value, base);
  if (read.ec != std::errc() || read.ptr != plain->data() + plain->size()) return std::nullopt;
  return value;
}

absl::StatusOr<Value> Int(Heap&, const Value& self, const Arguments& arguments) {
  Value otherwise(int64_t{0});
  Value base_value(int64_t{10});
  RETURN_IF_ERROR(Take(arguments, {{"default", &otherwise}, {"base", &base_value}}));
  if (self.IsInt() || self.IsBool()) return Plus(self);
  if (self.IsUndefined()) return IsUndefinedError(self.undefined());
  ASSIGN_OR_RETURN(const int64_t base, AsInteger(base_value));
  if (base < 2 || base > 36) return absl::InvalidArgumentError("a base from 2 to 36");
  std::optional<double> real;
  if (self.IsString()) {
    const std::optional<int64_t> integer = ReadInteger(self.text(), static_cast<int>(base));
    if (integer.has_value()) return Value(*integer);
    real = ReadReal(self.text());
  } else if (self.IsFloat()) {
    real = self.real();
  }
  if (!real.has_value() || !std::isfinite(*real)) return otherwise;
  if (std::fabs(*real) >= 0x1p63)
    return absl::InvalidArgumentError("an integer that takes more than 64 bits");
  return Value(static_cast<int64_t>(*real));
}

absl::StatusOr<Value> Float(Heap&, const Value& self, const Arguments& arguments) {
  Value otherwise(0.0);
  RETURN_IF_ERROR(Take(arguments, {{"default", &otherwise}}));
  if (self.IsUndefined()) return IsUndefinedError(self.undefined());
  if (self.IsNumber()) {
    ASSIGN_OR_RETURN(const double real, AsReal(self));
    return Value(real);
  }
  const std::optional<double> real =
      self.IsString() ? ReadReal(self.text()) : std::optional<double>();
  return real.has_value() ? Value(*real) : otherwise;
}

absl::StatusOr<Value> Abs(Heap&, const Value& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  if (self.IsFloat()) return Value(std::fabs(self.real()));
  ASSIGN_OR_RETURN(const int64_t integer, AsInteger(self));
  return integer < 0 ? Negate(self) : Plus(self);
}

absl::StatusOr<Value> Round(Heap&, const Value& self, const Arguments& arguments) {
  Value precision_value(int64_t{0});
  Value method = Value::Text("common");
  RETURN_IF_ERROR(Take(arguments, {{"precision", &precision_value}, {"method", &method}}));
  ASSIGN_OR_RETURN(const int64_t precision, AsInteger(precision_value));
  ASSIGN_OR_RETURN(const double real, AsReal(self));
  if (precision < 0 || precision > 300) {
    return absl::InvalidArgumentError("round takes a precision from 0 to 300");
  }
  const std::string how = method.IsString() ? method.text() : "";
  if (how == "common") {
    if (!self.IsFloat()) return Plus(self);
    if (!std::isfinite(real)) return self;
    std::string digits(700, '\0');  // printf rounds the exact value, halves to even
    const int size =
        std::snprintf(digits.data(), digits.size(), "%.*f", static_cast<int>(precision), real);
    digits.resize(static_cast<size_t>(size));
    return Value(std::strtod(digits.c_str(), nullptr));
  }
  if (how != "ceil" && how != "floor") {
    return absl::InvalidArgumentError("round is common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  return Value((how == "ceil" ? std::ceil(real * scale) : std::floor(real * scale)) / scale);
}

absl::StatusOr<Value> ToJson(Heap& heap, const Value& self, const Arguments& arguments) {
  Value ascii(false);
  Value indent = Value::None();
  Value separators = Value::None();
  Value sort_keys(false);
  RETURN_IF_ERROR(Take(arguments, {{"ensure_ascii", &ascii},
                                   {"indent", &indent},
                                   {"separators", &separators},
                                   {"sort_keys", &sort_keys}}));
  JsonStyle style{.ensure_ascii = ascii.IsTrue(), .sort_keys = sort_keys.IsTrue()};
  if (indent.IsString()) {
    style.indent = indent.text();
  } else if (!indent.IsNone()) {
    ASSIGN_OR_RETURN(const int64_t num_spaces, AsInteger(indent));
    if (num_spaces > 100) return absl::InvalidArgumentError("tojson indents by at most 100");
    style.indent.assign(static_cast<size_t>(std::max<int64_t>(num_spaces, 0)), ' ');
  }
  style.lines = !indent.IsNone();
  if (style.lines) style.item_separator.pop_back();  // no space before a line end
  if (!separators.IsNone()) {
    if (!separators.IsSequence() || separators.items().size() != 2 ||
        !separators.items()[0].IsString() || !separators.items()[1].IsString()) {
      return WrongType(separators, "two separators");
    }
    style.item_separator = separators.items()[0].text();
    style.key_separator = separators.items()[1].text();
  }
  ASSIGN_OR_RETURN(std::string text, WriteJson(heap, self, style));
  return heap.Text(std::move(text));
}

constexpr std::pair<std::string_view, Callable> kFilters[] = {
    {"abs", Abs},
    {"capitalize", Changed<Capitalize>},
    {"center", Center},
    {"e", Changed<Escape>},
    {"escape", Changed<Escape>},
    {"float", Float},
    {"forceescape", Changed<Escape>},
    {"format", Format},
    {"indent", Indent},
    {"int", Int},
    {"lower", Changed<Lower>},
    {"replace", ReplaceFilter},
    {"round", Round},
    {"safe", Changed<Same>},
    {"string", Changed<Same>},
    {"title", Changed<TitleWords>},
    {"tojson", ToJson},
    {"trim", Trim},
    {"upper", Changed<Upper>},
    {"wordcount", WordCount},
};

}  // namespace

Callable FindTextFilter(std::string_view name) {
  for (const auto& [known, filter] : kFilters) {
    if (known == name) return filter;
  }
  return nullptr;
}

}  // namespace polystrate::jinja
