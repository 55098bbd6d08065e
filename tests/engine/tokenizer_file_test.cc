#include "engine/tokenizer_file.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

// A sound file of three parts, each of which a test may replace.
struct File {
  std::string model = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false})";
  std::string rest = R"("decoder":{"type":"ByteLevel"},"added_tokens":[])";

  std::string Text() const {
    return "{\"model\":" + model + ",\"pre_tokenizer\":" + pre_tokenizer + "," + rest + "}";
  }
  // "ok", or the message after the document's name.
  std::string Error() const {
    const auto json = Json::Parse(Text(), "t.json");
    if (!json.ok()) return std::string(json.status().message());
    const auto tokenizer = Tokenizer::FromJson(*json);
    if (tokenizer.ok()) return "ok";
    EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(tokenizer.status().message());
    EXPECT_EQ(message.rfind("t.json: ", 0), 0u) << message;
    return message.substr(8);
  }
};

std::string ModelError(const std::string& vocab, const std::string& merges,
                       const std::string& more = "") {
  File file;
  file.model = R"({"type":"BPE","vocab":)" + vocab + ",\"merges\":" + merges + more + "}";
  return file.Error();
}

std::string AddedError(const std::string& added) {
  File file;
  file.rest = R"("decoder":{"type":"ByteLevel"},"added_tokens":)" + added;
  return file.Error();
}

TEST(TokenizerFileTest, SoundFile) {
  EXPECT_EQ(File().Error(), "ok");
  EXPECT_EQ(ModelError(R"({"a":0,"b":1,"ab":2})", R"([["a","b"]])"), "ok");
}

TEST(TokenizerFileTest, Vocabulary) {
  EXPECT_EQ(ModelError("{}", "[]"), "\"vocab\" is empty");
  EXPECT_EQ(ModelError("[]", "[]"), "\"vocab\" is an array of 0, expected an object");
  EXPECT_EQ(ModelError(R"({"a":0,"b":2})", "[]"),
            "\"vocab\" has 2 tokens but gives \"b\" the id 2; ids must be 0 to 1 without gaps");
  EXPECT_EQ(ModelError(R"({"a":0,"b":-1})", "[]"),
            "\"vocab\" has 2 tokens but gives \"b\" the id -1; ids must be 0 to 1 without gaps");
  EXPECT_EQ(ModelError(R"({"a":0,"b":0})", "[]"),
            "\"vocab\" gives the id 0 to both \"a\" and \"b\"");
  EXPECT_EQ(ModelError(R"({"a":0.5})", "[]"), "\"a\" is 0.5, expected an integer");
  EXPECT_EQ(ModelError(R"({"a":"x"})", "[]"), "\"a\" is the string \"x\", expected an integer");
  EXPECT_EQ(ModelError(R"({"a":0,"a":1})", "[]"), "t.json: duplicate key \"a\"");
  EXPECT_EQ(ModelError(R"({"a":1e300})", "[]").rfind("\"a\" is 1", 0), 0u);
}

TEST(TokenizerFileTest, Merges) {
  const std::string vocab = R"({"a":0,"b":1,"ab":2})";
  const std::string expected = ", expected two tokens, as \"a b\" or [\"a\", \"b\"]";
  EXPECT_EQ(ModelError(vocab, R"(["a b","a c"])"),
            "\"merges\" entry 1 joins \"a\" and \"c\", but \"vocab\" has no token \"c\"");
  EXPECT_EQ(ModelError(vocab, R"(["b a"])"),
            "\"merges\" entry 0 joins \"b\" and \"a\", but \"vocab\" has no token \"ba\"");
  EXPECT_EQ(ModelError(vocab, R"(["ab"])"), "\"merges\" is the string \"ab\"" + expected);
  EXPECT_EQ(ModelError(vocab, R"(["a b c"])"), "\"merges\" is the string \"a b c\"" + expected);
  EXPECT_EQ(ModelError(vocab, R"([["a"]])"), "\"merges\" is an array of 1" + expected);
  EXPECT_EQ(ModelError(vocab, R"([["a",1]])"), "\"merges\" is 1, expected a string");
  EXPECT_EQ(ModelError(vocab, "[7]"), "\"merges\" is 7" + expected);
  EXPECT_EQ(ModelError(vocab, "{}"), "\"merges\" is an object, expected an array");
  EXPECT_EQ(ModelError(vocab, "null"), "\"merges\" is null");
}

TEST(TokenizerFileTest, ModelsThatAreNotBpe) {
  File file;
  file.model = R"({"type":"Unigram"})";
  EXPECT_EQ(file.Error(), "\"model\": Unigram (only BPE) is not supported");
  file.model = "[]";
  EXPECT_EQ(file.Error(), "\"model\" is an array of 0, expected an object");
  file.model = "null";
  EXPECT_EQ(file.Error(), "\"model\" is null");
  for (const std::string option : {"\"dropout\":0.1", "\"continuing_subword_prefix\":\"##\"",
                                   "\"end_of_word_suffix\":\"</w>\""}) {
    const std::string name = option.substr(1, option.find(':') - 2);
    EXPECT_EQ(ModelError(R"({"a":0})", "[]", "," + option),
              "\"model\": " + name + " is not supported");
  }
  EXPECT_EQ(ModelError(R"({"a":0})", "[]", ",\"byte_fallback\":true"),
            "\"model\": byte_fallback of byte-level BPE is not supported");
}

TEST(TokenizerFileTest, OtherComponents) {
  File file;
  for (const auto& [pre_tokenizer, message] : std::vector<std::pair<std::string, std::string>>{
           {"null", "\"decoder\": ByteLevel without the pre_tokenizer ByteLevel is not supported"},
           {R"({"type":"Metaspace"})", "\"replacement\" is missing"},
           {R"({"type":"BertPreTokenizer"})",
            "\"pre_tokenizer\": BertPreTokenizer is not supported"},
           {R"({"type":"Sequence","pretokenizers":[3]})",
            "\"pretokenizers\" is 3, expected an array of objects"},
           {R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})",
            "\"pre_tokenizer\": Digits behind ByteLevel is not supported"},
           {R"({"type":"Split","behavior":"Removed"})",
            "\"pre_tokenizer\": Split with behavior Removed is not supported"},
           {R"({"type":"Split","behavior":"Isolated","pattern":{"Other":"x"}})",
            "\"pre_tokenizer\": Split without a String is not supported"},
           {R"({"type":"Split","behavior":"Isolated","pattern":{"String":""}})",
            "\"pre_tokenizer\": Split of an empty String is not supported"},
           {R"({"type":"Split","behavior":"Isolated","invert":true,"pattern":{"String":"x"}})",
            "\"pre_tokenizer\": Split with invert is not supported"},
           {R"({"type":"Sequence","pretokenizers":[{"type":"Metaspace","replacement":"_"},)"
            R"({"type":"ByteLevel"}]})",
            "\"pre_tokenizer\": ByteLevel behind Metaspace is not supported"}}) {
    file.pre_tokenizer = pre_tokenizer;
    EXPECT_EQ(file.Error(), message);
  }
  file.pre_tokenizer =
      R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)"
      R"("pattern":{"Regex":"(x"}},{"type":"ByteLevel","add_prefix_space":false}]})";
  EXPECT_EQ(file.Error(),
            "\"pre_tokenizer\": the regular expression \"(x\" is invalid at byte 2: missing "
            "closing parenthesis");
  file = File();
  file.rest = R"("normalizer":{"type":"NFKC"},"decoder":{"type":"ByteLevel"})";
  EXPECT_EQ(file.Error(), "\"normalizer\": NFKC is not supported");
  file.rest = R"("decoder":null)";
  EXPECT_EQ(file.Error(), "\"decoder\" is missing, expected ByteLevel, Metaspace or a Sequence");
  file.rest = R"("decoder":{"type":"WordPiece"})";
  EXPECT_EQ(file.Error(), "\"decoder\": WordPiece is not supported");
  file.rest = R"("decoder":{"type":"Fuse"})";
  EXPECT_EQ(file.Error(),
            "\"decoder\": anything but ByteLevel behind the pre_tokenizer ByteLevel is "
            "not supported");
}

TEST(TokenizerFileTest, PostProcessors) {
  const auto error = [](const std::string& post_processor) {
    File file;
    file.rest = R"("decoder":{"type":"ByteLevel"},"post_processor":)" + post_processor;
    return file.Error();
  };
  const auto add_a = [&](const std::string& ids) {
    return error(R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a"}},)"
                 R"({"Sequence":{"id":"A"}}],"special_tokens":{"a":{"ids":)" +
                 ids + "}}}");
  };
  EXPECT_EQ(add_a("[0,2]"), "ok");
  EXPECT_EQ(add_a("[3]"),
            "\"post_processor\" adds \"a\" with the id 3, which is not in the vocabulary, [0, 3)");
  EXPECT_EQ(add_a("[-1]"),
            "\"post_processor\" adds \"a\" with the id -1, which is not in the vocabulary, [0, 3)");
  EXPECT_EQ(error(R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"b"}},)"
                  R"({"Sequence":{"id":"A"}}],"special_tokens":{"a":{"ids":[0]}}})"),
            "\"b\" is missing");
  for (const auto& [single, times] :
       {std::make_pair("[]", "0"), {R"([{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}])", "2"}}) {
    EXPECT_EQ(error(std::string(R"({"type":"TemplateProcessing","single":)") + single + "}"),
              std::string("\"post_processor\": a TemplateProcessing that has the text ") + times +
                  " times is not supported");
  }
  EXPECT_EQ(error(R"({"type":"TemplateProcessing","single":["$A"]})"),
            R"("single" is the string "$A", expected an array of {"SpecialToken": ..} and )"
            R"({"Sequence": ..})");
  EXPECT_EQ(error(R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}}]})"), "ok");
  EXPECT_EQ(error(R"({"type":"ByteLevel"})"), "ok");
  EXPECT_EQ(error(R"({"type":"BertProcessing"})"),
            "\"post_processor\": BertProcessing is not supported");
}

// BPE over characters, which a file without the pre_tokenizer ByteLevel has.
TEST(TokenizerFileTest, CharacterComponents) {
  const auto error = [](const std::string& key, const std::string& component) {
    File file;
    file.pre_tokenizer = key == "pre_tokenizer" ? component : "null";
    file.rest = "\"decoder\":" + (key == "decoder" ? component : R"({"type":"Fuse"})");
    if (key == "normalizer") file.rest += ",\"normalizer\":" + component;
    return file.Error();
  };
  EXPECT_EQ(error("decoder", R"({"type":"Fuse"})"), "ok");
  const std::string space = R"("pattern":{"String":" "},"content":"_")";
  for (
      const auto& [key, component, message] : std::vector<std::array<std::string, 3>>{
          {"normalizer", R"({"type":"Prepend"})", "\"prepend\" is missing"},
          {"normalizer", R"({"type":"Replace","pattern":{"Regex":" "},"content":""})",
           "\"normalizer\": Replace without a String is not supported"},
          {"normalizer", R"({"type":"Replace","pattern":{"String":" "}})",
           "\"content\" is missing"},
          {"pre_tokenizer", R"({"type":"Metaspace","replacement":"ab"})",
           "\"replacement\" is the string \"ab\", expected one character"},
          {"pre_tokenizer", R"({"type":"Metaspace","replacement":"_","prepend_scheme":"last"})",
           "\"pre_tokenizer\": Metaspace with prepend_scheme last is not supported"},
          {"pre_tokenizer", R"({"type":"Metaspace","replacement":"_","add_prefix_space":false})",
           "Metaspace has \"add_prefix_space\" false, expected \"prepend_scheme\" to be \"never\" "
           "then"},
          {"decoder", R"({"type":"Strip","content":" ","start":1})",
           "\"decoder\": Strip without Fuse before it is not supported"},
          {"decoder",
           R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","stop":1}]})",
           "\"decoder\": Strip at the end is not supported"},
          {"decoder",
           R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Metaspace","replacement":"_"}]})",
           "\"decoder\": Metaspace behind Fuse is not supported"},
          {"decoder",
           R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" "},)"
           R"({"type":"Fuse"}]})",
           "\"decoder\": Fuse behind Strip is not supported"},
          {"decoder",
           R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Replace",)"
           R"("pattern":{"String":"ab"},"content":""}]})",
           "\"decoder\": Replace of several characters behind Fuse is not supported"},
          {"decoder",
           R"({"type":"Sequence","decoders":[{"type":"Replace",)" + space +
               R"(},{"type":"Metaspace","replacement":"_"}]})",
           "\"decoder\": Metaspace behind Replace is not supported"}}) {
    EXPECT_EQ(error(key, component), message);
  }
  File file;
  file.pre_tokenizer = "null";
  file.rest = R"("decoder":{"type":"Fuse"})";
  file.model = R"({"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"<unk>"})";
  EXPECT_EQ(file.Error(), "\"unk_token\" is \"<unk>\", which is not in \"vocab\"");
}

// Each would ask for more memory than there is.
TEST(TokenizerFileTest, StepsThatMakeTextsLongWithoutBound) {
  const auto error = [](const std::string& key, const std::string& steps) {
    File file;
    file.pre_tokenizer = "null";
    const std::string sequence = R"({"type":"Sequence",")" + key + "s\":[" + steps + "]}";
    file.rest = key == "decoder" ? R"("decoder":)" + sequence
                                 : R"("decoder":{"type":"Fuse"},"normalizer":)" + sequence;
    return file.Error();
  };
  const auto replace = [](size_t times) {
    return R"({"type":"Replace","pattern":{"String":"a"},"content":")" + std::string(times, 'a') +
           "\"}";
  };
  const std::string prepend = R"({"type":"Prepend","prepend":"aaa"})";
  for (const char* key : {"normalizer", "decoder"}) {
    const std::string refused = absl::StrCat(
        "\"", key, "\" can make a text 257 times longer; at most 256 times is supported");
    EXPECT_EQ(error(key, replace(16) + "," + replace(0) + "," + replace(16)), "ok");
    EXPECT_EQ(error(key, replace(257)), refused);
    EXPECT_TRUE(absl::StrContains(error(key, replace(100) + "," + replace(100)), "10000 times"));
  }
  EXPECT_EQ(error("normalizer", prepend + "," + replace(64)), "ok");
  EXPECT_TRUE(absl::StrContains(error("normalizer", prepend + "," + replace(65)), "260 times"));
}

TEST(TokenizerFileTest, AddedTokens) {
  EXPECT_EQ(AddedError(R"([{"id":3,"content":"x"},{"id":0,"content":"a"}])"), "ok");
  EXPECT_EQ(AddedError(R"([{"id":4,"content":"x"}])"),
            "\"added_tokens\" gives \"x\" the id 4, expected 3");
  EXPECT_EQ(AddedError(R"([{"id":3,"content":"a"}])"),
            "\"added_tokens\" gives \"a\" the id 3, expected 0");
  EXPECT_EQ(AddedError(R"([{"id":3,"content":"x"},{"id":3,"content":"x"}])"),
            "\"added_tokens\" lists \"x\" twice");
  EXPECT_EQ(AddedError(R"([{"id":3,"content":""}])"),
            "\"added_tokens\" has one with empty content");
  EXPECT_EQ(AddedError(R"([{"content":"x"}])"), "\"id\" is missing");
  EXPECT_EQ(AddedError(R"([{"id":3}])"), "\"content\" is missing");
  EXPECT_EQ(AddedError(R"([{"id":3,"content":"x","special":1}])"),
            "\"special\" is 1, expected true or false");
  EXPECT_EQ(AddedError("[1]"), "\"added_tokens\" is 1, expected an array of objects");
  EXPECT_EQ(AddedError("{}"), "\"added_tokens\" is an object, expected an array");
}

TEST(TokenizerFileTest, RootMustBeAnObject) {
  for (const std::string text : {"[]", "3", "\"x\"", "null", "{}"}) {
    const Json json = Json::Parse(text, "t.json").value();
    EXPECT_EQ(Tokenizer::FromJson(json).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Whatever is still valid JSON after edits gives a tokenizer or a status, and no tokenizer crashes.
TEST(TokenizerFileTest, MutatedFilesNeverCrash) {
  const std::string folder = SourceFile("tests/golden/tokenizer/");
  const std::string seeds[] = {ReadFile(folder + "tiny_split.json"),
                               ReadFile(folder + "spm_first.json"),
                               ReadFile(folder + "spm_next.json")};
  const std::vector<std::string> inserts = {"null", "0", "-1", "{}", "[]", "\"\"", "true",
                                            "1e9",  "3", "a",  ",",  "}",  "\\"};
  std::mt19937 random(5);
  int valid_json = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = seeds[round % 3];
    for (uint32_t edit = random() % 3; edit < 3; ++edit) {
      const size_t at = random() % text.size();
      const std::string& insert = inserts[random() % inserts.size()];
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(' ' + random() % 95);
          break;
        case 1:
          text.erase(at, 1 + random() % 4);
          break;
        default:  // another value where one begins
          const size_t colon = std::min(text.find(':', at), text.size() - 1);
          text.replace(colon + 1, random() % 3, insert);
      }
    }
    const auto json = Json::Parse(text, "fuzz");
    if (!json.ok()) continue;
    ++valid_json;
    const auto tokenizer = Tokenizer::FromJson(*json);
    if (!tokenizer.ok()) continue;
    const auto ids = (*tokenizer)->Encode("The [lr] cafe\u0301 123\n");
    if (ids.ok()) (void)(*tokenizer)->Decode(*ids, false);
  }
  EXPECT_GT(valid_json, 50);
}

}  // namespace
}  // namespace polystrate
