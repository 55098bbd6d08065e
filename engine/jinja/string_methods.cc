#include <unicode/uchar.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/jinja/access.h"
#include "engine/jinja/format.h"
#include "engine/jinja/methods.h"
#include "engine/jinja/operators.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

using StringMethod = absl::StatusOr<Value> (*)(Heap& heap, const std::string& self,
                                               const Arguments& arguments);

absl::Status NeedText(const Value& value) {
  return value.IsString() ? absl::OkStatus() : WrongType(value, "a text");
}

template <Sides sides>
absl::StatusOr<Value> StripMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value characters = Value::None();
  RETURN_IF_ERROR(Take(arguments, {{"chars", &characters}}));
  if (characters.IsNone()) return heap.Text(std::string(Strip(self, sides)));
  RETURN_IF_ERROR(NeedText(characters));
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(characters.text().size() / 64 * self.size())));
  return heap.Text(std::string(StripCharacters(self, characters.text(), sides)));
}

template <bool from_right>
absl::StatusOr<Value> SplitMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value separator = Value::None();
  Value most(int64_t{-1});
  RETURN_IF_ERROR(Take(arguments, {{"sep", &separator}, {"maxsplit", &most}}));
  ASSIGN_OR_RETURN(const int64_t count, AsInteger(most));
  return SplitText(heap, self, separator, count, from_right);
}

absl::StatusOr<Value> TextList(Heap& heap, const std::vector<std::string_view>& parts,
                               SequenceKind kind = SequenceKind::kList) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) {
    ASSIGN_OR_RETURN(Value item, heap.Text(std::string(part)));
    items.push_back(std::move(item));
  }
  return heap.List(std::move(items), kind);
}

absl::StatusOr<Value> SplitLinesMethod(Heap& heap, const std::string& self,
                                       const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  return TextList(heap, SplitLines(self));
}

template <bool last>
absl::StatusOr<Value> PartitionMethod(Heap& heap, const std::string& self,
                                      const Arguments& arguments) {
  Value separator;
  RETURN_IF_ERROR(Take(arguments, {{"sep", &separator, false}}));
  RETURN_IF_ERROR(NeedText(separator));
  const std::string& text = separator.text();
  if (text.empty()) return absl::InvalidArgumentError("an empty separator");
  const std::string_view view = self;
  const size_t at = last ? view.rfind(text) : view.find(text);
  std::vector<std::string_view> parts = {view, "", ""};
  if (at != std::string_view::npos) {
    parts = {view.substr(0, at), text, view.substr(at + text.size())};
  } else if (last) {
    parts = {"", "", view};
  }
  return TextList(heap, parts, SequenceKind::kTuple);
}

template <bool at_end>
bool Touches(std::string_view text, std::string_view part) {
  if (part.size() > text.size()) return false;
  return (at_end ? text.substr(text.size() - part.size()) : text.substr(0, part.size())) == part;
}

template <bool at_end>
absl::StatusOr<Value> TouchesMethod(Heap& heap, const std::string& self,
                                    const Arguments& arguments) {
  Value part;
  RETURN_IF_ERROR(Take(arguments, {{at_end ? "suffix" : "prefix", &part, false}}));
  if (part.IsString()) return Value(Touches<at_end>(self, part.text()));
  if (!part.IsSequence() || part.sequence().kind != SequenceKind::kTuple) {
    return WrongType(part, "a text or a tuple of them");
  }
  for (const Value& one : part.items()) {
    RETURN_IF_ERROR(heap.Step());
    RETURN_IF_ERROR(NeedText(one));
    if (Touches<at_end>(self, one.text())) return Value(true);
  }
  return Value(false);
}

template <bool at_end>
absl::StatusOr<Value> RemoveMethod(Heap& heap, const std::string& self,
                                   const Arguments& arguments) {
  Value part;
  RETURN_IF_ERROR(Take(arguments, {{at_end ? "suffix" : "prefix", &part, false}}));
  RETURN_IF_ERROR(NeedText(part));
  if (!Touches<at_end>(self, part.text())) return heap.Text(self);
  const size_t rest = self.size() - part.text().size();
  return heap.Text(at_end ? self.substr(0, rest) : self.substr(part.text().size()));
}

absl::StatusOr<Value> ReplaceMethod(Heap& heap, const std::string& self,
                                    const Arguments& arguments) {
  Value from;
  Value to;
  Value count(int64_t{-1});
  RETURN_IF_ERROR(Take(arguments, {{"old", &from, false}, {"new", &to, false}, {"count", &count}}));
  RETURN_IF_ERROR(NeedText(from));
  RETURN_IF_ERROR(NeedText(to));
  ASSIGN_OR_RETURN(const int64_t most, AsInteger(count));
  return ReplaceText(heap, self, from.text(), to.text(), most);
}

template <std::string (*change)(std::string_view)>
absl::StatusOr<Value> CaseMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  return heap.Text(change(self));
}

template <bool last, bool must>
absl::StatusOr<Value> FindTextMethod(Heap& heap, const std::string& self,
                                     const Arguments& arguments) {
  Value part;
  RETURN_IF_ERROR(Take(arguments, {{"sub", &part, false}}));
  RETURN_IF_ERROR(NeedText(part));
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(self.size() / 64)));
  const size_t at = last ? self.rfind(part.text()) : self.find(part.text());
  if (at != std::string::npos) return Value(NumCodePoints(std::string_view(self).substr(0, at)));
  if (must) return absl::InvalidArgumentError("index() of a text that is not there");
  return Value(int64_t{-1});
}

absl::StatusOr<Value> CountMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value part;
  RETURN_IF_ERROR(Take(arguments, {{"sub", &part, false}}));
  RETURN_IF_ERROR(NeedText(part));
  RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(self.size() / 64)));
  if (part.text().empty()) return Value(NumCodePoints(self) + 1);
  int64_t count = 0;
  for (size_t at = self.find(part.text()); at != std::string::npos;
       at = self.find(part.text(), at + part.text().size())) {
    ++count;
  }
  return Value(count);
}

absl::StatusOr<Value> JoinMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value items;
  RETURN_IF_ERROR(Take(arguments, {{"iterable", &items, false}}));
  ASSIGN_OR_RETURN(const Value sequence, AsSequence(heap, items));
  for (const Value& item : sequence.items()) RETURN_IF_ERROR(NeedText(item));
  return JoinTexts(heap, self, sequence.items());
}

absl::StatusOr<Value> FormatMethod(Heap& heap, const std::string& self,
                                   const Arguments& arguments) {
  return BraceFormat(heap, self, arguments);
}

template <bool (*holds)(std::string_view)>
absl::StatusOr<Value> IsMethod(Heap&, const std::string& self, const Arguments& arguments) {
  RETURN_IF_ERROR(Take(arguments, {}));
  return Value(holds(self));
}

template <typename Holds>
bool AllOf(std::string_view text, Holds holds) {
  if (text.empty()) return false;
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (!holds(static_cast<UChar32>(step.code_point))) return false;
    text.remove_prefix(step.num_bytes);
  }
  return true;
}

bool IsNumeric(UChar32 c) { return u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE) != U_NT_NONE; }
bool IsDigitCharacter(UChar32 c) {
  const int type = u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE);
  return type == U_NT_DECIMAL || type == U_NT_DIGIT;
}
bool IsLetter(UChar32 c) { return (U_GET_GC_MASK(c) & U_GC_L_MASK) != 0; }

bool IsDigits(std::string_view text) { return AllOf(text, IsDigitCharacter); }
bool IsDecimals(std::string_view text) {
  return AllOf(text, [](UChar32 c) { return u_charType(c) == U_DECIMAL_DIGIT_NUMBER; });
}
bool IsNumerics(std::string_view text) { return AllOf(text, IsNumeric); }
bool IsAlpha(std::string_view text) { return AllOf(text, IsLetter); }
bool IsAlnum(std::string_view text) {
  return AllOf(text, [](UChar32 c) { return IsLetter(c) || IsNumeric(c); });
}
bool IsSpaces(std::string_view text) {
  return AllOf(text, [](UChar32 c) { return IsSpace(static_cast<uint32_t>(c)); });
}
bool IsAscii(std::string_view text) {
  return text.empty() || AllOf(text, [](UChar32 c) { return c < 0x80; });
}
bool IsUpper(std::string_view text) { return HasCased(text, /*upper=*/true); }
bool IsLower(std::string_view text) { return HasCased(text, /*upper=*/false); }

// 'l': what is there stands on the left.
template <char side>
absl::StatusOr<Value> PadMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value width_value;
  Value fill = Value::Text(" ");
  RETURN_IF_ERROR(Take(arguments, {{"width", &width_value, false}, {"fillchar", &fill}}));
  RETURN_IF_ERROR(NeedText(fill));
  if (NumCodePoints(fill.text()) != 1) return absl::InvalidArgumentError("a fill of one character");
  ASSIGN_OR_RETURN(const int64_t width, AsInteger(width_value));
  const int64_t length = NumCodePoints(self);
  const int64_t num_missing = std::max<int64_t>(0, std::min(width, int64_t{1} << 32) - length);
  RETURN_IF_ERROR(heap.CheckTextSize(num_missing * static_cast<int64_t>(fill.text().size())));
  int64_t left = side == 'l' ? 0 : num_missing;
  if (side == 'c') left = num_missing / 2 + (num_missing & width & 1);
  std::string text;
  for (int64_t i = 0; i < left; ++i) text += fill.text();
  text += self;
  for (int64_t i = left; i < num_missing; ++i) text += fill.text();
  return heap.Text(std::move(text));
}

absl::StatusOr<Value> ZfillMethod(Heap& heap, const std::string& self, const Arguments& arguments) {
  Value width_value;
  RETURN_IF_ERROR(Take(arguments, {{"width", &width_value, false}}));
  ASSIGN_OR_RETURN(const int64_t width, AsInteger(width_value));
  RETURN_IF_ERROR(heap.CheckTextSize(width));
  const size_t sign = !self.empty() && (self[0] == '-' || self[0] == '+') ? 1 : 0;
  const int64_t num_missing = std::max<int64_t>(0, width - NumCodePoints(self));
  return heap.Text(self.substr(0, sign) + std::string(static_cast<size_t>(num_missing), '0') +
                   self.substr(sign));
}

constexpr std::pair<std::string_view, StringMethod> kMethods[] = {
    {"capitalize", CaseMethod<Capitalize>},
    {"center", PadMethod<'c'>},
    {"count", CountMethod},
    {"endswith", TouchesMethod<true>},
    {"find", FindTextMethod<false, false>},
    {"format", FormatMethod},
    {"index", FindTextMethod<false, true>},
    {"isalnum", IsMethod<IsAlnum>},
    {"isalpha", IsMethod<IsAlpha>},
    {"isascii", IsMethod<IsAscii>},
    {"isdecimal", IsMethod<IsDecimals>},
    {"isdigit", IsMethod<IsDigits>},
    {"islower", IsMethod<IsLower>},
    {"isnumeric", IsMethod<IsNumerics>},
    {"isspace", IsMethod<IsSpaces>},
    {"isupper", IsMethod<IsUpper>},
    {"join", JoinMethod},
    {"ljust", PadMethod<'l'>},
    {"lower", CaseMethod<Lower>},
    {"lstrip", StripMethod<kLeft>},
    {"partition", PartitionMethod<false>},
    {"removeprefix", RemoveMethod<false>},
    {"removesuffix", RemoveMethod<true>},
    {"replace", ReplaceMethod},
    {"rfind", FindTextMethod<true, false>},
    {"rindex", FindTextMethod<true, true>},
    {"rjust", PadMethod<'r'>},
    {"rpartition", PartitionMethod<true>},
    {"rsplit", SplitMethod<true>},
    {"rstrip", StripMethod<kRight>},
    {"split", SplitMethod<false>},
    {"splitlines", SplitLinesMethod},
    {"startswith", TouchesMethod<false>},
    {"strip", StripMethod<kBoth>},
    {"title", CaseMethod<Title>},
    {"upper", CaseMethod<Upper>},
    {"zfill", ZfillMethod},
};

}  // namespace

absl::StatusOr<Value> CallStringMethod(Heap& heap, const Value& self, std::string_view name,
                                       const Arguments& arguments) {
  for (const auto& [known, method] : kMethods) {
    if (known == name) return method(heap, self.text(), arguments);
  }
  return absl::InvalidArgumentError(absl::StrFormat("%s() of a text is not supported", name));
}

}  // namespace polystrate::jinja
