// Stop texts: the cut does not depend on how the text comes in pieces, and nothing leaks.

#include "engine/stop_text.h"

#include <gtest/gtest.h>

#include <random>

namespace polystrate {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop;
};

Outcome Match(const std::vector<std::string>& stops, bool include,
              const std::vector<std::string>& pieces) {
  const StopTexts prepared(stops);
  StopTextMatcher matcher(&prepared, include);
  Outcome outcome;
  for (std::string piece : pieces) {
    outcome.stop = matcher.Filter(piece);
    outcome.text += piece;
    if (outcome.stop.has_value()) return outcome;
  }
  outcome.text += matcher.Flush();
  return outcome;
}

// The definition, over the whole text at once.
Outcome Expected(const std::vector<std::string>& stops, bool include, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string* best = nullptr;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop) && (best == nullptr || stop.size() > best->size())) {
        best = &stop;
      }
    }
    if (best != nullptr) return {text.substr(0, end - (include ? 0 : best->size())), *best};
  }
  return {text, std::nullopt};
}

TEST(StopText, CutsBeforeOrBehindTheStop) {
  EXPECT_EQ(Match({"end"}, false, {"the e", "n", "d of"}).text, "the ");
  EXPECT_EQ(Match({"end"}, true, {"the e", "n", "d of"}).text, "the end");
  EXPECT_EQ(*Match({"no", "end"}, true, {"the e", "nd"}).stop, "end");
  EXPECT_EQ(Match({"end"}, false, {"the e", "n"}).text, "the en");
  EXPECT_EQ(Match({}, false, {"the e", "nd"}).text, "the end");
}

TEST(StopText, HoldsBackOnlyWhatMayBeginAStop) {
  const StopTexts stops({"\n\nHuman:", "<|"});
  StopTextMatcher matcher(&stops, false);
  std::string text = "a\n";
  EXPECT_FALSE(matcher.Filter(text).has_value());
  EXPECT_EQ(text, "a");
  text = "b<";
  EXPECT_FALSE(matcher.Filter(text).has_value());
  EXPECT_EQ(text, "\nb");
  text = "=\n\nHum";
  EXPECT_FALSE(matcher.Filter(text).has_value());
  EXPECT_EQ(text, "<=");
  text = "ble";
  EXPECT_FALSE(matcher.Filter(text).has_value());
  EXPECT_EQ(text, "\n\nHumble");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopText, EqualsTheDefinitionOnRandomTexts) {
  std::mt19937 random(7);
  const auto word = [&](size_t max_size) {
    std::string out;
    for (size_t n = 1 + random() % max_size; n > 0; --n) out += "ab"[random() % 2];
    if (random() % 4 == 0) out += "\xC3\xA9";  // e acute, whole
    return out;
  };
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops, pieces;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(word(5));
    std::string whole;
    for (size_t n = random() % 6; n > 0; --n) whole += pieces.emplace_back(word(3));
    const bool include = random() % 2 == 0;
    const Outcome expected = Expected(stops, include, whole);
    const Outcome got = Match(stops, include, pieces);
    ASSERT_EQ(got.text, expected.text) << whole;
    ASSERT_EQ(got.stop, expected.stop) << whole;
    stopped += got.stop.has_value() ? 1 : 0;
  }
  EXPECT_GT(stopped, 5000);
  EXPECT_LT(stopped, 19000);
}

}  // namespace
}  // namespace polystrate
