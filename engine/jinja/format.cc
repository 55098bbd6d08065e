#include "engine/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

constexpr int kMaxWidth = 1000;  // and precision; C's printf works with these

// How one value is to be written, in either language.
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ or, with zeros behind the sign, =
  char sign = '-';    // + or space: what stands before what is not negative
  bool alternate = false;
  bool comma = false;
  int width = 0;
  int precision = -1;
  char type = '\0';
};

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrFormat("in a format: %s", what));
}

// Reads digits at the front of `text`; nullopt: there are none.
absl::StatusOr<std::optional<int>> TakeNumber(std::string_view& text) {
  int number = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || text[0] < '0' || text[0] > '9') return std::optional<int>();
  if (read.ec != std::errc() || number > kMaxWidth) {
    return Bad(absl::StrCat("a number over ", kMaxWidth));
  }
  text.remove_prefix(static_cast<size_t>(read.ptr - text.data()));
  return std::optional<int>(number);
}

std::string Pad(const std::string& sign, const std::string& body, const Spec& spec,
                char default_align) {
  const int64_t num_missing = spec.width - NumCodePoints(sign) - NumCodePoints(body);
  const char align = spec.align != '\0' ? spec.align : default_align;
  int64_t left = align == '<' ? 0 : align == '^' ? num_missing / 2 : num_missing;
  std::string text = align == '=' ? sign : "";
  for (int64_t i = 0; i < left; ++i) text += spec.fill;
  text += align == '=' ? body : sign + body;
  for (int64_t i = std::max<int64_t>(left, 0); i < num_missing; ++i) text += spec.fill;
  return text;
}

void AddCommas(std::string& digits) {
  size_t end = 0;
  while (end < digits.size() && digits[end] >= '0' && digits[end] <= '9') ++end;
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, 1, ',');
}

std::string SignOf(bool negative, const Spec& spec) {
  if (negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string FormatInteger(int64_t value, const Spec& spec) {
  const uint64_t magnitude =
      value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  char buffer[80];
  const int base = spec.type == 'x' || spec.type == 'X' ? 16
                   : spec.type == 'o'                   ? 8
                   : spec.type == 'b'                   ? 2
                                                        : 10;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), magnitude, base).ptr;
  std::string digits(buffer, static_cast<size_t>(end - buffer));
  if (spec.type == 'X') digits = Upper(digits);
  if (spec.comma) AddCommas(digits);
  std::string sign = SignOf(value < 0, spec);
  if (spec.alternate && base != 10) sign += std::string("0") + spec.type;
  return Pad(sign, digits, spec, '>');
}

std::string FormatReal(double value, const Spec& spec) {
  const bool percent = spec.type == '%';
  const char type = percent ? 'f' : spec.type;
  char format[] = "%.*f";
  format[3] = type;
  std::vector<char> buffer(static_cast<size_t>(kMaxWidth) + 400);
  const double magnitude = std::fabs(percent ? value * 100 : value);
  std::snprintf(buffer.data(), buffer.size(), format, spec.precision < 0 ? 6 : spec.precision,
                magnitude);
  std::string digits(buffer.data());
  if (spec.comma) AddCommas(digits);
  if (percent) digits += '%';
  return Pad(SignOf(std::signbit(value) && !std::isnan(value), spec), digits, spec, '>');
}

std::string FormatText(std::string_view text, const Spec& spec) {
  if (spec.precision >= 0) text = text.substr(0, ByteOffset(text, spec.precision));
  return Pad("", std::string(text), spec, '<');
}

bool IsOneOf(char c, std::string_view characters) {
  return c != '\0' && characters.find(c) != std::string_view::npos;
}

// ---- format % values

class PercentFormatter {
 public:
  PercentFormatter(Heap& heap, std::string_view format, const Value& values)
      : heap_(heap), rest_(format), values_(values) {
    is_tuple_ = values.IsSequence() && values.sequence().kind == SequenceKind::kTuple;
  }
  absl::StatusOr<Value> Run();

 private:
  absl::Status Conversion();
  absl::StatusOr<Spec> TakeSpec();
  absl::StatusOr<Value> NextValue();

  Heap& heap_;
  std::string_view rest_;
  const Value& values_;
  bool is_tuple_;
  size_t num_taken_ = 0;
  std::string text_;
};

absl::StatusOr<Value> PercentFormatter::Run() {
  while (!rest_.empty()) {
    const size_t at = std::min(rest_.find('%'), rest_.size());
    text_ += rest_.substr(0, at);
    rest_.remove_prefix(at);
    if (!rest_.empty()) RETURN_IF_ERROR(Conversion());
    RETURN_IF_ERROR(heap_.CheckTextSize(static_cast<int64_t>(text_.size())));
  }
  const bool all_taken = is_tuple_ ? num_taken_ == values_.items().size()
                                   : num_taken_ > 0 || values_.IsDict() || values_.IsSequence();
  if (!all_taken) return Bad("more values than places");
  return heap_.Text(std::move(text_));
}

absl::StatusOr<Value> PercentFormatter::NextValue() {
  const size_t at = num_taken_++;
  if (is_tuple_ && at < values_.items().size()) return values_.items()[at];
  if (!is_tuple_ && at == 0) return values_;
  return Bad("more places than values");
}

absl::StatusOr<Spec> PercentFormatter::TakeSpec() {
  Spec spec;
  spec.align = '>';
  bool zeros = false;
  for (; !rest_.empty() && IsOneOf(rest_[0], "-+ 0#"); rest_.remove_prefix(1)) {
    if (rest_[0] == '-') spec.align = '<';
    if (rest_[0] == '+' || (rest_[0] == ' ' && spec.sign != '+')) spec.sign = rest_[0];
    zeros |= rest_[0] == '0';
    spec.alternate |= rest_[0] == '#';
  }
  ASSIGN_OR_RETURN(const std::optional<int> width, TakeNumber(rest_));
  spec.width = width.value_or(0);
  if (!rest_.empty() && rest_[0] == '.') {
    rest_.remove_prefix(1);
    ASSIGN_OR_RETURN(const std::optional<int> precision, TakeNumber(rest_));
    spec.precision = precision.value_or(0);
  }
  if (rest_.empty()) return Bad("a % that does not end");
  spec.type = rest_[0];
  rest_.remove_prefix(1);
  if (zeros && spec.align == '>' && IsOneOf(spec.type, "dixXofFeEgG")) {
    spec.fill = "0";
    spec.align = '=';
  }
  return spec;
}

absl::Status PercentFormatter::Conversion() {
  RETURN_IF_ERROR(heap_.Step());
  rest_.remove_prefix(1);
  ASSIGN_OR_RETURN(Spec spec, TakeSpec());
  if (spec.type == '%') {
    text_ += '%';
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Value value, NextValue());
  if (IsOneOf(spec.type, "sr")) {
    ASSIGN_OR_RETURN(const std::string text,
                     spec.type == 's' ? Str(heap_, value) : Repr(heap_, value));
    text_ += FormatText(text, spec);
  } else if (IsOneOf(spec.type, "dixXo")) {
    if (value.IsFloat() && !IsOneOf(spec.type, "di")) return WrongType(value, "an integer");
    if (value.IsFloat() && !(std::fabs(value.real()) < 0x1p63)) return Bad("too large a number");
    if (!value.IsFloat() && !value.IsNumber()) return WrongType(value, "a number");
    int64_t integer = 0;
    if (value.IsFloat()) {
      integer = static_cast<int64_t>(value.real());
    } else {
      ASSIGN_OR_RETURN(integer, AsInteger(value));
    }
    if (spec.precision >= 0) return Bad("an integer with a precision");
    text_ += FormatInteger(integer, spec);
  } else if (IsOneOf(spec.type, "fFeEgG")) {
    ASSIGN_OR_RETURN(const double real, AsReal(value));
    text_ += FormatReal(real, spec);
  } else {
    return Bad("an unknown conversion");
  }
  return absl::OkStatus();
}

// ---- format.format(...)

class BraceFormatter {
 public:
  BraceFormatter(Heap& heap, std::string_view format, const Arguments& arguments)
      : heap_(heap), rest_(format), arguments_(arguments) {}
  absl::StatusOr<Value> Run();

 private:
  absl::Status Field();
  absl::StatusOr<Value> FieldValue(std::string_view name);
  absl::StatusOr<Spec> ReadSpec(std::string_view text) const;
  absl::StatusOr<std::string> Write(const Value& value, std::string_view spec_text) const;

  Heap& heap_;
  std::string_view rest_;
  const Arguments& arguments_;
  size_t num_automatic_ = 0;
  std::string text_;
};

absl::StatusOr<Value> BraceFormatter::Run() {
  while (!rest_.empty()) {
    const size_t at = std::min(rest_.find_first_of("{}"), rest_.size());
    text_ += rest_.substr(0, at);
    rest_.remove_prefix(at);
    if (rest_.empty()) break;
    if (rest_.size() > 1 && rest_[1] == rest_[0]) {
      text_ += rest_[0];
      rest_.remove_prefix(2);
    } else if (rest_[0] == '}') {
      return Bad("a } without its {");
    } else {
      RETURN_IF_ERROR(Field());
    }
    RETURN_IF_ERROR(heap_.CheckTextSize(static_cast<int64_t>(text_.size())));
  }
  return heap_.Text(std::move(text_));
}

absl::Status BraceFormatter::Field() {
  RETURN_IF_ERROR(heap_.Step());
  const size_t end = rest_.find('}');
  if (end == std::string_view::npos) return Bad("a { without its }");
  std::string_view field = rest_.substr(1, end - 1);
  rest_.remove_prefix(end + 1);
  if (field.find('{') != std::string_view::npos) return Bad("a field within a field");
  const size_t name_end = std::min(field.find_first_of("!:"), field.size());
  ASSIGN_OR_RETURN(Value value, FieldValue(field.substr(0, name_end)));
  field.remove_prefix(name_end);
  if (!field.empty() && field[0] == '!') {
    if (field.size() < 2 || !IsOneOf(field[1], "rs")) return Bad("an unknown conversion");
    ASSIGN_OR_RETURN(std::string text, field[1] == 'r' ? Repr(heap_, value) : Str(heap_, value));
    ASSIGN_OR_RETURN(value, heap_.Text(std::move(text)));
    field.remove_prefix(2);
  }
  if (!field.empty() && field[0] != ':') return Bad("expected : or }");
  ASSIGN_OR_RETURN(const std::string text, Write(value, field.substr(field.empty() ? 0 : 1)));
  text_ += text;
  return absl::OkStatus();
}

absl::StatusOr<Value> BraceFormatter::FieldValue(std::string_view name) {
  const std::string_view first = name.substr(0, name.find_first_of(".["));
  std::string_view rest = name.substr(first.size());
  std::string_view digits = first;
  ASSIGN_OR_RETURN(const std::optional<int> number, TakeNumber(digits));
  Value value;
  if (first.empty() || (number.has_value() && digits.empty())) {
    const size_t at = first.empty() ? num_automatic_++ : static_cast<size_t>(*number);
    if (at >= arguments_.positional.size()) return Bad("more places than values");
    value = arguments_.positional[at];
  } else {
    const Value* keyword = arguments_.FindKeyword(first);
    if (keyword == nullptr) return Bad(absl::StrFormat("no value named '%s'", first));
    value = *keyword;
  }
  while (!rest.empty()) {
    const bool bracket = rest[0] == '[';
    const size_t end = bracket ? rest.find(']') : rest.find_first_of(".[", 1);
    if (rest[0] != '.' && (!bracket || end == std::string_view::npos))
      return Bad("expected . or [");
    std::string_view part = rest.substr(1, std::min(end, rest.size()) - 1);
    rest.remove_prefix(std::min(end, rest.size()));
    if (bracket) rest.remove_prefix(1);
    ASSIGN_OR_RETURN(Value key, heap_.Text(std::string(part)));
    ASSIGN_OR_RETURN(const std::optional<int> index, TakeNumber(part));
    if (bracket && index.has_value() && part.empty()) key = Value(static_cast<int64_t>(*index));
    ASSIGN_OR_RETURN(value, GetItem(heap_, value, key));
  }
  return value;
}

absl::StatusOr<Spec> BraceFormatter::ReadSpec(std::string_view text) const {
  Spec spec;
  const size_t first = text.empty() ? 0 : DecodeUtf8(text).num_bytes;
  if (first < text.size() && IsOneOf(text[first], "<>^=")) {
    spec.fill = std::string(text.substr(0, first));
    spec.align = text[first];
    text.remove_prefix(first + 1);
  } else if (!text.empty() && IsOneOf(text[0], "<>^=")) {
    spec.align = text[0];
    text.remove_prefix(1);
  }
  const auto skip = [&text](std::string_view characters) {
    const char c = !text.empty() && IsOneOf(text[0], characters) ? text[0] : '\0';
    if (c != '\0') text.remove_prefix(1);
    return c;
  };
  if (const char sign = skip("+- ")) spec.sign = sign;
  spec.alternate = skip("#") != '\0';
  if (skip("0") != '\0' && spec.align == '\0') {
    spec.fill = "0";
    spec.align = '=';
  }
  ASSIGN_OR_RETURN(const std::optional<int> width, TakeNumber(text));
  spec.width = width.value_or(0);
  spec.comma = skip(",") != '\0';
  if (skip(".") != '\0') {
    ASSIGN_OR_RETURN(const std::optional<int> precision, TakeNumber(text));
    if (!precision.has_value()) return Bad("a . without a precision");
    spec.precision = *precision;
  }
  spec.type = skip("sdxXobfFeEgG%");
  if (!text.empty()) return Bad("an unknown way to write a value");
  return spec;
}

absl::StatusOr<std::string> BraceFormatter::Write(const Value& value,
                                                  std::string_view spec_text) const {
  if (spec_text.empty()) return Str(heap_, value);
  ASSIGN_OR_RETURN(Spec spec, ReadSpec(spec_text));
  if (value.IsString()) {
    if (spec.type != '\0' && spec.type != 's') return Bad("a text as a number");
    if (spec.align == '=') spec.align = '<';
    return FormatText(value.text(), spec);
  }
  if (!value.IsNumber()) return WrongType(value, "a text or a number");
  if (IsOneOf(spec.type, "fFeEgG%")) {
    ASSIGN_OR_RETURN(const double real, AsReal(value));
    return FormatReal(real, spec);
  }
  if (spec.type == 's') return Bad("a number as a text");
  if (value.IsFloat()) {
    if (spec.type != '\0') return Bad("a fraction as an integer");
    if (spec.precision >= 0) return Bad("a fraction with a precision and no type");
    std::string digits = FloatText(std::fabs(value.real()));
    if (spec.comma) AddCommas(digits);
    return Pad(SignOf(std::signbit(value.real()), spec), digits, spec, '>');
  }
  if (spec.precision >= 0) return Bad("an integer with a precision");
  ASSIGN_OR_RETURN(const int64_t integer, AsInteger(value));
  return FormatInteger(integer, spec);
}

}  // namespace

absl::StatusOr<Value> PercentFormat(Heap& heap, const std::string& format, const Value& values) {
  return PercentFormatter(heap, format, values).Run();
}

absl::StatusOr<Value> BraceFormat(Heap& heap, const std::string& format,
                                  const Arguments& arguments) {
  return BraceFormatter(heap, format, arguments).Run();
}

}  // namespace polystrate::jinja
