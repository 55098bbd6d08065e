// StopTextMatcher: looks for stop texts in a stream of text, and never lets out a part of one.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polystrate {

// The stop text that ends first stops the stream; of several that end at one place, the longest.
// So the cut does not depend on how tokens split the text. Held back is what may be the beginning
// of a stop text. Stop texts and pieces are whole UTF-8 characters, and so is what comes out.
class StopTextMatcher {
 public:
  // Without stop texts everything passes.
  StopTextMatcher() = default;
  // `include`: the stop text itself is let out.
  StopTextMatcher(std::vector<std::string> stop_texts, bool include);

  // Replaces `text`, the next piece of the stream, by what is certain now. Returns the stop text
  // that is complete with it; the stream has then ended and nothing is held back.
  std::optional<std::string> Filter(std::string& text);

  // The end of the stream without a stop text: what was held back.
  std::string Flush();

 private:
  std::vector<std::string> stop_texts_;
  bool include_ = false;
  std::string held_;  // a proper beginning of a stop text, or empty
};

}  // namespace polystrate
