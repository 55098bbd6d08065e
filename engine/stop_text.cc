#include "engine/stop_text.h"

#include <algorithm>
#include <utility>

#include "kernels/core/check.h"

namespace polystrate {

StopTexts::StopTexts(const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    CHECK(!text.empty());
    std::vector<int32_t> borders(text.size() + 1, 0);
    int32_t border = 0;
    for (size_t n = 1; n < text.size(); ++n) {
      while (border > 0 && text[border] != text[n]) border = borders[border];
      if (text[border] == text[n]) ++border;
      borders[n + 1] = border;
    }
    texts_.push_back({text, std::move(borders)});
  }
}

StopTextMatcher::StopTextMatcher(const StopTexts* stop_texts, bool include)
    : stop_texts_(stop_texts), include_(include), matched_(stop_texts->texts_.size(), 0) {}

const std::string* StopTextMatcher::Next(char byte) {
  const std::string* longest = nullptr;
  for (size_t i = 0; i < matched_.size(); ++i) {
    const auto& [text, borders] = stop_texts_->texts_[i];
    int32_t n = matched_[i];
    while (n > 0 && text[n] != byte) n = borders[n];
    if (text[n] == byte) ++n;
    matched_[i] = n;
    if (n < static_cast<int32_t>(text.size())) continue;
    if (longest == nullptr || text.size() > longest->size()) longest = &text;
  }
  return longest;
}

std::optional<std::string> StopTextMatcher::Filter(std::string& text) {
  if (matched_.empty()) return std::nullopt;
  size_t end = held_.size();
  held_ += text;
  const std::string* stop = nullptr;
  while (stop == nullptr && end < held_.size()) stop = Next(held_[end++]);
  if (stop != nullptr) {
    text = held_.substr(0, end - (include_ ? 0 : stop->size()));
    held_.clear();
    std::fill(matched_.begin(), matched_.end(), 0);
    return *stop;
  }
  const auto hold = static_cast<size_t>(*std::max_element(matched_.begin(), matched_.end()));
  text = held_.substr(0, held_.size() - hold);
  held_.erase(0, text.size());
  return std::nullopt;
}

std::string StopTextMatcher::Flush() {
  std::fill(matched_.begin(), matched_.end(), 0);
  return std::exchange(held_, {});
}

}  // namespace polystrate
