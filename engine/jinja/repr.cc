#include "engine/jinja/repr.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/jinja/arguments.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

absl::Status Append(Heap& heap, const Value& value, int depth, std::string& text);

absl::Status AppendItems(Heap& heap, const std::vector<Value>& items, int depth,
                         std::string& text) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += ", ";
    RETURN_IF_ERROR(Append(heap, items[i], depth, text));
  }
  return absl::OkStatus();
}

absl::Status AppendSequence(Heap& heap, const Sequence& sequence, int depth, std::string& text) {
  const char* open = "[";
  const char* close = "]";
  switch (sequence.kind) {
    case SequenceKind::kList:
      break;
    case SequenceKind::kTuple:
      open = "(";
      close = sequence.items.size() == 1 ? ",)" : ")";
      break;
    case SequenceKind::kKeys:
      open = "dict_keys([";
      close = "])";
      break;
    case SequenceKind::kValues:
      open = "dict_values([";
      close = "])";
      break;
    case SequenceKind::kItems:
      open = "dict_items([";
      close = "])";
      break;
    default:
      return absl::InvalidArgumentError("a range or generator has no text: make it a list first");
  }
  text += open;
  RETURN_IF_ERROR(AppendItems(heap, sequence.items, depth, text));
  text += close;
  return absl::OkStatus();
}

absl::Status AppendDict(Heap& heap, const Dict& dict, int depth, std::string& text) {
  text += '{';
  bool first = true;
  for (const auto& [key, value] : dict.members()) {
    if (!first) text += ", ";
    first = false;
    RETURN_IF_ERROR(Append(heap, key, depth, text));
    text += ": ";
    RETURN_IF_ERROR(Append(heap, value, depth, text));
  }
  text += '}';
  return absl::OkStatus();
}

// A namespace may hold itself, so the depth is counted and not that of the value.
absl::Status AppendNamespace(Heap& heap, const Namespace& name_space, int depth,
                             std::string& text) {
  text += "<Namespace {";
  bool first = true;
  for (const auto& [key, value] : name_space.members) {
    if (!first) text += ", ";
    first = false;
    text += Quoted(key);
    text += ": ";
    RETURN_IF_ERROR(Append(heap, value, depth, text));
  }
  text += "}>";
  return absl::OkStatus();
}

absl::Status Append(Heap& heap, const Value& value, int depth, std::string& text) {
  RETURN_IF_ERROR(heap.Step());
  RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(text.size())));
  if (++depth > kMaxValueDepth + 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a value nested deeper than %d levels", kMaxValueDepth));
  }
  switch (value.type()) {
    case Type::kUndefined:
      text += "Undefined";
      return absl::OkStatus();
    case Type::kNone:
      text += "None";
      return absl::OkStatus();
    case Type::kBool:
      text += value.boolean() ? "True" : "False";
      return absl::OkStatus();
    case Type::kInt:
      absl::StrAppend(&text, value.integer());
      return absl::OkStatus();
    case Type::kFloat:
      text += FloatText(value.real());
      return absl::OkStatus();
    case Type::kString:
      RETURN_IF_ERROR(heap.Step(static_cast<int64_t>(value.text().size() / 64)));
      text += Quoted(value.text());
      return absl::OkStatus();
    case Type::kSequence:
      return AppendSequence(heap, value.sequence(), depth, text);
    case Type::kDict:
      return AppendDict(heap, value.dict(), depth, text);
    case Type::kNamespace:
      return AppendNamespace(heap, *value.name_space(), depth, text);
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("a value of type '%s' has no text", value.TypeName()));
  }
}

}  // namespace

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view written(buffer, static_cast<size_t>(end - buffer));
  const size_t e = written.find('e');
  int exponent = 0;
  const size_t sign = written[e + 1] == '+' ? 2 : 1;  // from_chars takes no plus
  std::from_chars(buffer + e + sign, end, exponent);
  if (exponent < -4 || exponent >= 16) {
    return absl::StrFormat("%se%c%02d", written.substr(0, e), exponent < 0 ? '-' : '+',
                           std::abs(exponent));
  }
  const auto fixed =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed).ptr;
  std::string text(buffer, static_cast<size_t>(fixed - buffer));
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string Quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string result(1, quote);
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    const uint32_t c = step.code_point;
    if (c == '\\' || c == static_cast<uint32_t>(quote)) {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (IsPrintable(c)) {
      result += text.substr(0, step.num_bytes);
    } else if (c < 0x100) {
      absl::StrAppendFormat(&result, "\\x%02x", c);
    } else if (c < 0x10000) {
      absl::StrAppendFormat(&result, "\\u%04x", c);
    } else {
      absl::StrAppendFormat(&result, "\\U%08x", c);
    }
    text.remove_prefix(step.num_bytes);
  }
  result += quote;
  return result;
}

absl::StatusOr<std::string> Str(Heap& heap, const Value& value) {
  if (value.IsString()) return value.text();
  if (value.IsUndefined()) return std::string();
  return Repr(heap, value);
}

absl::StatusOr<std::string> Repr(Heap& heap, const Value& value) {
  std::string text;
  RETURN_IF_ERROR(Append(heap, value, 0, text));
  RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(text.size())));
  return text;
}

}  // namespace polystrate::jinja
