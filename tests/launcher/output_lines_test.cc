#include "launcher/output_lines.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

using Lines = std::vector<std::string>;

// "1: text", or "-: text" of nobody, for `bytes` in pieces of `piece`.
Lines Cut(const std::string& bytes, bool tagged, size_t piece) {
  Lines lines;
  OutputLines output(tagged, [&lines](std::optional<int> rank, absl::string_view line) {
    const std::string who = rank.has_value() ? absl::StrCat(*rank) : "-";
    lines.push_back(absl::StrCat(who, ": ", line));
  });
  for (size_t i = 0; i < bytes.size(); i += piece) {
    output.Add(absl::string_view(bytes).substr(i, piece));
  }
  output.End();
  return lines;
}

TEST(OutputLines, CutsLines) {
  for (const size_t piece : {1, 2, 3, 100}) {
    EXPECT_EQ(Cut("one\n\ntwo\r\n[1,0]<stdout>:x\nrest", false, piece),
              (Lines{"-: one", "-: ", "-: two", "-: [1,0]<stdout>:x", "-: rest"}));
    EXPECT_EQ(Cut("", true, piece), Lines());
  }
}

// As mpirun has it: a piece of a rank's output has a tag wherever the piece begins.
TEST(OutputLines, KnowsRanks) {
  const std::string bytes =
      "from mpirun\n"
      "[1,0]<stderr>:whole\n"
      "[1,0]<stdout>:par[1,13]<stdout>:other pa[1,0]<stdout>:tial\n"
      "[1,13]<stdout>:rt\n"
      "[1,0]<stderr>:half [2] of [1,x]<stdout>: [1,2]<stdfoo>:\n"
      "[from mpirun]\n"
      "[1,0]<stdout>:no break[1,0]<stderr>:nor here[1,";
  const Lines expected = {"-: from mpirun",
                          "0: whole",
                          "0: partial",
                          "13: other part",
                          "0: half [2] of [1,x]<stdout>: [1,2]<stdfoo>:",
                          "-: [from mpirun]",
                          "0: nor here[1,",
                          "0: no break"};
  for (size_t piece = 1; piece < 40; ++piece) {
    SCOPED_TRACE(piece);
    EXPECT_EQ(Cut(bytes, true, piece), expected);
  }
}

TEST(OutputLines, BreaksLongLines) {
  const std::string text(2 * kMaxLogLine + 7, 'x');
  const Lines lines = Cut(text + "\nnext\n", false, 1000);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].size(), kMaxLogLine + 3);
  EXPECT_EQ(lines[2], "-: xxxxxxx");
  EXPECT_EQ(lines[3], "-: next");
}

// Whatever comes, nothing is lost and nothing grows.
TEST(OutputLines, TakesAnything) {
  std::mt19937 random(7);
  const std::string letters = "[1,0]<stdouter>:\n x";
  for (int i = 0; i < 200; ++i) {
    std::string bytes;
    for (int j = 0; j < 2000; ++j) bytes += letters[random() % letters.size()];
    const Lines whole = Cut(bytes, true, bytes.size());
    EXPECT_EQ(Cut(bytes, true, 1 + random() % 50), whole);
  }
}

}  // namespace
}  // namespace polystrate
