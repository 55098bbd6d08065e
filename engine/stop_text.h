// StopTextMatcher: looks for stop texts in a stream of text, and never lets out a part of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace polystrate {

// A request's stop texts, prepared once for all of its outputs. None is empty.
class StopTexts {
 public:
  explicit StopTexts(const std::vector<std::string>& texts = {});

 private:
  friend class StopTextMatcher;
  struct Text {
    std::string text;
    // borders[n]: how long the longest beginning of the text is that its first n bytes end with,
    // those n themselves left out.
    std::vector<int32_t> borders;
  };
  std::vector<Text> texts_;
};

// The stop text that ends first stops the stream; of several that end at one place, the longest.
// So the cut does not depend on how tokens split the text. Held back is what may be the beginning
// of a stop text. Stop texts and pieces are whole UTF-8 characters, and so is what comes out. Each
// byte takes a step or two for each stop text, whatever they are (Knuth, Morris and Pratt, 1977),
// so that none can be made up to slow the engine down.
class StopTextMatcher {
 public:
  // Without stop texts everything passes.
  StopTextMatcher() = default;
  // `stop_texts` must outlive the matcher. `include`: the stop text itself is let out.
  StopTextMatcher(const StopTexts* stop_texts, bool include);

  // Replaces `text`, the next piece of the stream, by what is certain now. Returns the stop text
  // that is complete with it; the stream has then ended and nothing is held back.
  std::optional<std::string> Filter(std::string& text);

  // The end of the stream without a stop text: what was held back.
  std::string Flush();

 private:
  // The longest stop text that ends with this byte, the next one.
  const std::string* Next(char byte);

  const StopTexts* stop_texts_ = nullptr;
  bool include_ = false;
  std::vector<int32_t>
      matched_;       // of each stop text: its longest beginning that the stream ends in
  std::string held_;  // a proper beginning of a stop text, or empty
};

}  // namespace polystrate
