#include "engine/stop_text.h"

#include <algorithm>
#include <utility>

namespace polystrate {

StopTextMatcher::StopTextMatcher(std::vector<std::string> stop_texts, bool include)
    : stop_texts_(std::move(stop_texts)), include_(include) {}

std::optional<std::string> StopTextMatcher::Filter(std::string& text) {
  if (stop_texts_.empty()) return std::nullopt;
  held_ += text;
  const std::string* stop = nullptr;
  size_t begin = 0;
  for (const std::string& candidate : stop_texts_) {
    const size_t found = held_.find(candidate);
    if (found == std::string::npos) continue;
    const size_t end = found + candidate.size();
    const size_t best = stop == nullptr ? std::string::npos : begin + stop->size();
    if (end > best || (end == best && found >= begin)) continue;
    stop = &candidate;
    begin = found;
  }
  if (stop != nullptr) {
    text = held_.substr(0, begin + (include_ ? stop->size() : 0));
    held_.clear();
    return *stop;
  }
  size_t hold = 0;  // bytes
  for (const std::string& candidate : stop_texts_) {
    const std::string_view beginning = candidate;
    for (size_t n = std::min(candidate.size() - 1, held_.size()); n > hold; --n) {
      if (held_.ends_with(beginning.substr(0, n))) hold = n;
    }
  }
  text = held_.substr(0, held_.size() - hold);
  held_.erase(0, text.size());
  return std::nullopt;
}

std::string StopTextMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace polystrate
