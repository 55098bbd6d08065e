#include "launcher/flags.h"

#include <gtest/gtest.h>

#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

struct Values {
  std::string text = "default";
  int64_t count = 3;
  double share = 0.5;
  bool json = false;
  std::optional<uint64_t> seed;
};

FlagSet MakeFlags(Values* values) {
  FlagSet flags("polystrate test: for tests");
  flags.Add("some_text", &values->text, "a text");
  flags.Add("count", &values->count, "a count");
  flags.Add("share", &values->share, "a share");
  flags.Add("json", &values->json, "a switch");
  flags.Add("seed", &values->seed, "an optional one");
  return flags;
}

TEST(FlagSet, TakesBothSpellingsOfNamesAndValues) {
  Values values;
  FlagSet flags = MakeFlags(&values);
  ASSERT_TRUE(
      flags.Parse({"--some-text", "a=b", "--count=-7", "--json", "--seed", "18446744073709551615"})
          .ok());
  EXPECT_EQ(values.text, "a=b");
  EXPECT_EQ(values.count, -7);
  EXPECT_EQ(values.share, 0.5);
  EXPECT_TRUE(values.json);
  EXPECT_EQ(values.seed, UINT64_MAX);
}

TEST(FlagSet, AListTakesAllUpToTheNextFlag) {
  std::vector<std::string> list;
  int64_t count = 0;
  FlagSet flags("polystrate test: for tests");
  flags.Add("limits", &list, "a list");
  flags.Add("count", &count, "a count");
  ASSERT_TRUE(flags.Parse({"--limits", "a:1", "b:2", "--count", "3", "--limits=c"}).ok());
  EXPECT_EQ(list, (std::vector<std::string>{"a:1", "b:2", "c"}));
  EXPECT_EQ(count, 3);
  EXPECT_FALSE(flags.Parse({"--limits"}).ok());
  EXPECT_FALSE(flags.Parse({"--count", "3", "4"}).ok());
}

TEST(FlagSet, ABoolStandsAloneOrTakesAValueAfterTheEqualsSign) {
  Values values;
  FlagSet flags = MakeFlags(&values);
  ASSERT_TRUE(flags.Parse({"--json=true", "--json=false"}).ok());
  EXPECT_FALSE(values.json);
}

TEST(FlagSet, RefusesWhatItDoesNotKnowAndSaysWhatItTakes) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  Values values;
  FlagSet flags = MakeFlags(&values);
  EXPECT_TRUE(Fails(flags.Parse({"--cuont", "3"}), kInvalid, "did you mean --count?"));
  EXPECT_TRUE(Fails(flags.Parse({"--nothing_like_it"}), kInvalid, "unknown flag"));
  EXPECT_TRUE(Fails(flags.Parse({"stray"}), kInvalid, "\"stray\" is no flag"));
  EXPECT_TRUE(Fails(flags.Parse({"--count"}), kInvalid, "--count needs a value"));
  EXPECT_TRUE(Fails(flags.Parse({"--count", "3.5"}), kInvalid, "takes an integer, not \"3.5\""));
  EXPECT_TRUE(Fails(flags.Parse({"--share", "half"}), kInvalid, "takes a number, not \"half\""));
  EXPECT_TRUE(Fails(flags.Parse({"--seed", "-1"}), kInvalid, "takes an integer"));
  EXPECT_TRUE(Fails(flags.Parse({"--json=maybe"}), kInvalid, "takes true or false"));
  EXPECT_TRUE(Fails(flags.Parse({"--some_text", ""}), kInvalid, "takes a text, not \"\""));
}

TEST(FlagSet, HelpNamesEveryFlagAndItsDefault) {
  Values values;
  FlagSet flags = MakeFlags(&values);
  ASSERT_TRUE(flags.Parse({"--help"}).ok());
  EXPECT_TRUE(flags.help_requested());
  for (const char* word :
       {"--some_text TEXT", "[default]", "--count N", "[3]", "--json ", "--seed N"}) {
    EXPECT_NE(flags.Help().find(word), std::string::npos) << word;
  }
}

TEST(FlagSet, HelpKeepsItsColumnAndTellsWhatIsOn) {
  bool on = true;
  bool off = false;
  FlagSet flags("summary");
  flags.Add("a_name_that_is_longer_than_its_column", &on, "long");
  flags.Add("short", &off, "brief");
  const std::string column(33, ' ');
  EXPECT_EQ(flags.Help(), "summary\n\n  --a_name_that_is_longer_than_its_column\n" + column +
                              "long [true]\n  --short" + column.substr(9) + "brief\n");
}

TEST(ParseIntList, NamesThePartThatIsNone) {
  EXPECT_EQ(*ParseIntList("stages", "0,6,12"), (std::vector<int>{0, 6, 12}));
  EXPECT_TRUE(Fails(ParseIntList("stages", "0,six").status(), absl::StatusCode::kInvalidArgument,
                    "--stages takes integers with commas between, as 1,2,3; \"six\" is none"));
  EXPECT_FALSE(ParseIntList("stages", "").ok());
  EXPECT_FALSE(ParseIntList("stages", "1,,2").ok());
}

}  // namespace
}  // namespace polystrate
