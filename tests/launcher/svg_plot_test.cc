#include "launcher/svg_plot.h"

#include <gtest/gtest.h>

#include <regex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

// Every tag closed in its order, every attribute quoted, no bare < or & anywhere.
void ExpectWellFormed(const std::string& xml) {
  static const std::regex kTag(R"re(<(/?)(\w+)((?:\s+[\w:-]+="[^"<&]*")*)\s*(/?)>)re");
  static const std::regex kText(R"re((?:[^<>&]|&(?:amp|lt|gt|quot);)*)re");
  std::vector<std::string> open;
  auto next = xml.begin();
  for (std::sregex_iterator tag(xml.begin(), xml.end(), kTag), end; tag != end; ++tag) {
    const std::string between(next, (*tag)[0].first);
    EXPECT_TRUE(std::regex_match(between, kText)) << between;
    next = (*tag)[0].second;
    const bool closes = (*tag)[1].length() > 0, empty = (*tag)[4].length() > 0;
    if (closes) {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(open.back(), (*tag)[2].str());
      open.pop_back();
    } else if (!empty) {
      open.push_back((*tag)[2].str());
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(std::string(next, xml.end()), "\n");
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

SvgPlot Plot() {
  SvgPlot plot;
  plot.title = "speed & <size>";
  plot.x = {"bytes", /*log=*/true};
  plot.y = {"tokens \"per\" second", /*log=*/false};
  plot.series = {{"measured", {{10, 1, "a<b"}, {1000, 95, "c"}}},
                 {"limit", {{10, 50}, {1000, 100}}, /*markers=*/false, /*line=*/true, true}};
  return plot;
}

TEST(SvgPlotTest, IsWellFormedWhateverTheTexts) { ExpectWellFormed(Plot().Render()); }

TEST(SvgPlotTest, DrawsEveryPointLineAndName) {
  const std::string svg = Plot().Render();
  EXPECT_EQ(Count(svg, "<polyline"), 2);
  EXPECT_EQ(Count(svg, "<circle"), 3);  // two points and the legend's
  for (const char* text : {"speed &amp; &lt;size&gt;", ">bytes<", "measured", "limit", "a&lt;b"}) {
    EXPECT_TRUE(absl::StrContains(svg, text)) << text;
  }
}

// x from 10 to 1000 spans the frame, two decades, left to right; y from 0 to 100 bottom to top.
TEST(SvgPlotTest, PutsPointsWhereTheyBelong) {
  SvgPlot plot = Plot();
  plot.series = {{"s", {{10, 0}, {100, 50}, {1000, 100}}}};
  EXPECT_TRUE(absl::StrContains(plot.Render(), "points=\"90.0,450.0 465.0,250.0 840.0,50.0 \""));
  plot.x.log = false;
  EXPECT_TRUE(absl::StrContains(plot.Render(), "points=\"97.5,450.0 165.0,250.0 840.0,50.0 \""));
}

TEST(SvgPlotTest, AxesHoldEveryValueOfAnySize) {
  const std::regex pixel(R"re(<circle cx="([-0-9.]+)" cy="([-0-9.]+)")re");
  for (double largest : {1e-9, 0.3, 7.0, 1e12}) {
    for (bool log : {false, true}) {
      SvgPlot plot;
      plot.x = plot.y = {"", log};
      plot.series = {{"s", {{largest / 50, largest}, {largest, largest / 70}}}};
      const std::string svg = plot.Render();
      ExpectWellFormed(svg);
      std::sregex_iterator at(svg.begin(), svg.end(), pixel);
      for (int point = 0; point < 2; ++point, ++at) {  // then the legend's
        EXPECT_GE(std::stod((*at)[1]), 90);
        EXPECT_LE(std::stod((*at)[1]), 840);
        EXPECT_GE(std::stod((*at)[2]), 50);
        EXPECT_LE(std::stod((*at)[2]), 450);
      }
    }
  }
}

TEST(WriteTextFileTest, WritesOrSaysWhyNot) {
  TempDir dir;
  ASSERT_TRUE(WriteTextFile("svg", dir.File("a.svg"), "text").ok());
  EXPECT_EQ(ReadFile(dir.File("a.svg")), "text");
  EXPECT_TRUE(Fails(WriteTextFile("svg", dir.File("no/a.svg"), "text"),
                    absl::StatusCode::kInvalidArgument, "--svg: cannot write " + dir.path()));
}

}  // namespace
}  // namespace polystrate
