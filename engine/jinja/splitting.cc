// Taking texts apart and putting them together, for methods and filters alike.
#include <algorithm>
#include <string>

#include "engine/jinja/methods.h"
#include "engine/jinja/repr.h"
#include "engine/jinja/text.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {
namespace {

using Parts = std::vector<std::string_view>;

Parts SplitAtSpace(std::string_view text, int64_t most) {
  Parts parts;
  text = Strip(text, kLeft);
  while (!text.empty()) {
    if (most == static_cast<int64_t>(parts.size())) {
      parts.push_back(text);  // with the space at its end
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Step step = DecodeUtf8(text.substr(end));
      if (IsSpace(step.code_point)) break;
      end += step.num_bytes;
    }
    parts.push_back(text.substr(0, end));
    text = Strip(text.substr(end), kLeft);
  }
  return parts;
}

// Ascending, though found from the end.
Parts SplitAtSpaceFromRight(std::string_view text, int64_t most) {
  const Parts all = SplitAtSpace(text, -1);
  const auto num_parts = static_cast<int64_t>(all.size());
  if (most < 0 || num_parts <= most) return all;
  if (num_parts == 0) return {};
  const std::string_view last_joined = all[static_cast<size_t>(num_parts - most - 1)];
  const char* begin = text.data();  // with the space at its start
  Parts parts = {std::string_view(
      begin, static_cast<size_t>(last_joined.data() + last_joined.size() - begin))};
  parts.insert(parts.end(), all.end() - most, all.end());
  return parts;
}

Parts SplitAt(std::string_view text, std::string_view separator, int64_t most) {
  Parts parts;
  while (most != static_cast<int64_t>(parts.size())) {
    const size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

Parts SplitAtFromRight(std::string_view text, std::string_view separator, int64_t most) {
  Parts parts;
  while (most != static_cast<int64_t>(parts.size())) {
    const size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

absl::StatusOr<Value> SplitText(Heap& heap, const std::string& text, const Value& separator,
                                int64_t most, bool from_right) {
  if (most < 0) most = -1;
  RETURN_IF_ERROR(heap.Step(1 + static_cast<int64_t>(text.size() / 16)));
  Parts parts;
  if (separator.IsNone()) {
    parts = from_right ? SplitAtSpaceFromRight(text, most) : SplitAtSpace(text, most);
  } else if (!separator.IsString()) {
    return WrongType(separator, "a text");
  } else if (separator.text().empty()) {
    return absl::InvalidArgumentError("an empty separator");
  } else {
    parts = from_right ? SplitAtFromRight(text, separator.text(), most)
                       : SplitAt(text, separator.text(), most);
  }
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) {
    ASSIGN_OR_RETURN(Value item, heap.Text(std::string(part)));
    items.push_back(std::move(item));
  }
  return heap.List(std::move(items));
}

absl::StatusOr<Value> ReplaceText(Heap& heap, std::string_view text, std::string_view from,
                                  std::string_view to, int64_t count) {
  int64_t num_found = 0;
  if (from.empty()) {
    num_found = NumCodePoints(text) + 1;
  } else {
    for (size_t at = text.find(from); at != std::string_view::npos;
         at = text.find(from, at + from.size())) {
      ++num_found;
    }
  }
  if (count >= 0) num_found = std::min(num_found, count);
  const auto size = static_cast<int64_t>(text.size());
  RETURN_IF_ERROR(heap.Step(1 + size / 32));
  RETURN_IF_ERROR(heap.CheckTextSize(
      size + num_found * (static_cast<int64_t>(to.size()) - static_cast<int64_t>(from.size()))));
  return heap.Text(Replace(text, from, to, num_found));
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    const uint32_t c = step.code_point;
    const bool ends = (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (ends) lines.push_back(text.substr(begin, at - begin));
    at += step.num_bytes;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    if (ends) begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

absl::StatusOr<Value> JoinTexts(Heap& heap, std::string_view separator,
                                const std::vector<Value>& items) {
  std::string text;
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(heap.Step());
    if (i > 0) text += separator;
    if (items[i].IsString()) {
      text += items[i].text();
    } else {
      ASSIGN_OR_RETURN(const std::string item, Str(heap, items[i]));
      text += item;
    }
    RETURN_IF_ERROR(heap.CheckTextSize(static_cast<int64_t>(text.size())));
  }
  return heap.Text(std::move(text));
}

}  // namespace polystrate::jinja
