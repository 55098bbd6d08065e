#include "engine/json.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "engine/utf8.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

std::string ErrorOf(const std::string& text) {
  const auto json = Json::Parse(text, "doc.json");
  if (json.ok()) return "ok";
  EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(json.status().message());
}

Json ParseOrDie(const std::string& text) {
  auto json = Json::Parse(text, "doc.json");
  EXPECT_TRUE(json.ok()) << json.status();
  return *std::move(json);
}

template <typename T>
std::string Message(const absl::StatusOr<T>& result) {
  return result.ok() ? "ok" : std::string(result.status().message());
}

TEST(JsonTest, ReadsEveryKind) {
  const Json json = ParseOrDie(
      R"({"b": true, "i": -3, "d": 2.5, "s": "a\u00e9\ud83d\ude00\u0000z", "n": null, "a": [1, "x"],
          "o": {"z": 1, "y": 2}})");
  const JsonView root = json.root();
  EXPECT_TRUE(*root.GetBool("b"));
  EXPECT_EQ(*root.GetInt("i"), -3);
  EXPECT_EQ(*root.GetDouble("d"), 2.5);
  EXPECT_EQ(*root.GetString("s"), std::string("a\u00e9\U0001F600\0z", 9));
  EXPECT_TRUE(root.Find("n")->IsNull());
  EXPECT_FALSE(root.Has("n"));
  EXPECT_FALSE(root.Find("absent").has_value());
  const JsonView array = *root.GetArray("a");
  ASSERT_EQ(array.size(), 2);
  EXPECT_EQ(*array.at(0).AsInt("a"), 1);
  EXPECT_EQ(*array.Elements()[1].AsString("a"), "x");
  EXPECT_EQ(root.GetObject("o")->Keys(), (std::vector<std::string>{"y", "z"}));
  EXPECT_EQ(root.GetObject("o")->Members()[1].first, "z");
  EXPECT_EQ(root.document(), "doc.json");
}

TEST(JsonTest, DefaultsForAbsentAndNullOnly) {
  const Json json = ParseOrDie(R"({"n": null, "s": "x"})");
  const JsonView root = json.root();
  EXPECT_EQ(*root.GetIntOr("n", 7), 7);
  EXPECT_EQ(*root.GetIntOr("absent", 7), 7);
  EXPECT_EQ(*root.GetDoubleOr("n", 0.5), 0.5);
  EXPECT_TRUE(*root.GetBoolOr("n", true));
  EXPECT_EQ(*root.GetStringOr("n", "d"), "d");
  EXPECT_EQ(Message(root.GetIntOr("s", 7)),
            "doc.json: \"s\" is the string \"x\", expected an integer");
}

TEST(JsonTest, MessagesNameDocumentKeyAndValue) {
  const Json json = ParseOrDie(R"({"h": 3.5, "big": 1e17, "n": null, "a": [1,2], "o": {}})");
  const JsonView root = json.root();
  EXPECT_EQ(Message(root.GetInt("h")), "doc.json: \"h\" is 3.5, expected an integer");
  EXPECT_EQ(Message(root.GetInt("big")),
            "doc.json: \"big\" is 1e+17, expected an integer within 2^53");
  EXPECT_EQ(Message(root.GetInt("x")), "doc.json: \"x\" is missing");
  EXPECT_EQ(Message(root.GetInt("n")), "doc.json: \"n\" is null");
  EXPECT_EQ(Message(root.GetBool("a")), "doc.json: \"a\" is an array of 2, expected true or false");
  EXPECT_EQ(Message(root.GetArray("o")), "doc.json: \"o\" is an object, expected an array");
  EXPECT_EQ(Message(root.GetObject("a")), "doc.json: \"a\" is an array of 2, expected an object");
  EXPECT_EQ(Message(root.GetString("h")), "doc.json: \"h\" is 3.5, expected a string");
}

TEST(JsonTest, IntegersAreExactToTwoToTheFiftyThree) {
  const Json json = ParseOrDie("[9007199254740992, -9007199254740992, 9007199254740994, 3.0, 2e3]");
  EXPECT_EQ(*json.root().at(0).AsInt("x"), int64_t{1} << 53);
  EXPECT_EQ(*json.root().at(1).AsInt("x"), -(int64_t{1} << 53));
  EXPECT_FALSE(json.root().at(2).AsInt("x").ok());
  EXPECT_EQ(*json.root().at(3).AsInt("x"), 3);
  EXPECT_EQ(*json.root().at(4).AsInt("x"), 2000);
}

TEST(JsonTest, DuplicateKeysAreErrorsAtEveryDepth) {
  const std::string expected = "doc.json: duplicate key \"a\"";
  EXPECT_EQ(ErrorOf(R"({"a":1,"a":2})"), expected);
  EXPECT_EQ(ErrorOf(R"({"a":null,"a":1})"), expected);
  EXPECT_EQ(ErrorOf(R"({"a":1,"\u0061":2})"), expected);
  EXPECT_EQ(ErrorOf(R"([{"b":[{"a":1,"a":{}}]}])"), expected);
  EXPECT_EQ(ErrorOf(R"({"x":{"a":1},"y":{"a":1}})"), "ok");
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  for (const std::string text : {"",
                                 "  ",
                                 "{",
                                 "[",
                                 "\"abc",
                                 "{} x",
                                 "{}{}",
                                 "[1 2]",
                                 "{\"a\" 1}",
                                 "{\"a\":tru}",
                                 "[NaN]",
                                 "[Infinity]",
                                 "[1e400]",
                                 "[-1e400]",
                                 "[01]",
                                 "[0x1]",
                                 "[+1]",
                                 "[-]",
                                 "[\"\\ud800\"]",
                                 "['a']",
                                 "\xef\xbb\xbf{}",
                                 "{} // comment",
                                 "]",
                                 "}",
                                 "\"\\"}) {
    EXPECT_NE(ErrorOf(text), "ok") << text;
    EXPECT_EQ(ErrorOf(text).rfind("doc.json: ", 0), 0u) << ErrorOf(text);
    EXPECT_EQ(ErrorOf(text).find('\n'), std::string::npos) << ErrorOf(text);
  }
  EXPECT_NE(ErrorOf(std::string("{}\0", 3)), "ok");
}

TEST(JsonTest, RefusesInvalidUtf8) {
  for (const std::string bad :
       {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    EXPECT_NE(ErrorOf("{\"a\":\"" + bad + "\"}"), "ok");
    EXPECT_NE(ErrorOf("{\"" + bad + "\":1}"), "ok");
    const std::string message = ErrorOf("[\"" + bad + "\"]");  // goes out over gRPC, so is UTF-8
    EXPECT_EQ(FirstInvalidUtf8(message), message.size()) << message;
  }
}

TEST(JsonTest, BoundsDepthAndNumberOfValues) {
  const auto nested = [](int depth) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += "{\"a\":";
    text += "1";
    return text + std::string(static_cast<size_t>(depth), '}');
  };
  EXPECT_EQ(ErrorOf(nested(kMaxJsonDepth)), "ok");
  EXPECT_EQ(ErrorOf(nested(kMaxJsonDepth + 1)),
            "doc.json: nested deeper than 32 levels at byte 160");
  EXPECT_NE(ErrorOf(std::string(5'000'000, '[')), "ok");
  std::string wide = "[0";
  for (int64_t i = 0; i < kMaxJsonValues; ++i) wide += ",0";
  EXPECT_EQ(ErrorOf(wide + "]"), "doc.json: more than 4000000 values");
}

TEST(JsonTest, LongValuesAreCutInMessages) {
  const Json json = ParseOrDie("{\"s\":\"" + std::string(59, 'a') + "\u00e9\u00e9\"}");
  EXPECT_EQ(
      Message(json.root().GetInt("s")),
      "doc.json: \"s\" is the string \"" + std::string(59, 'a') + "...\", expected an integer");
}

TEST(JsonTest, ReadsFiles) {
  const TempDir dir;
  const std::string path = dir.File("config.json");
  WriteFile(path, R"({"a": 1})");
  auto json = Json::ReadFile(path, 100);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->root().document(), "config.json");
  const Json moved = *std::move(json);
  EXPECT_EQ(*moved.root().GetInt("a"), 1);
  EXPECT_EQ(Message(Json::ReadFile(path, 7)),
            path + ": 8 bytes, expected a JSON file of at most 7");
  EXPECT_EQ(Message(Json::ReadFile(dir.path(), 100)), dir.path() + ": not a regular file");
  EXPECT_EQ(Json::ReadFile(path + "x", 100).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Json::ReadFile("/dev/zero", 100).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(JsonTest, MutatedInputNeverCrashes) {
  const std::string seed =
      R"({"version":"1.0","added_tokens":[{"id":0,"special":true,"content":"<|x|>","f":-1.5e3}],)"
      R"("model":{"type":"BPE","vocab":{"a":0,"\u0120b":1},"merges":["a b",["a","b"]],"n":null}})";
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string text = seed;
    const int num_edits = 1 + static_cast<int>(random() % 4);
    for (int edit = 0; edit < num_edits; ++edit) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, 1, "{}[],:\"\\0e-'"[random() % 12]);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
      }
      if (text.empty()) text = "x";
    }
    accepted += Json::Parse(text, "fuzz").ok();
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 20000);
}

}  // namespace
}  // namespace polystrate
