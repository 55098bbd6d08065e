#include "engine/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "engine/byte_level.h"
#include "engine/utf8.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

const std::string kFolder = SourceFile("tests/golden/tokenizer/");
const std::string kTiny = kFolder + "tiny.json";

std::unique_ptr<Tokenizer> Load(const std::string& path) {
  return Tokenizer::ReadFile(path).value();
}

// The letters a, b and c, whatever the rest says.
std::unique_ptr<Tokenizer> Abc(const std::string& pre_tokenizer) {
  return Tokenizer::FromJson(
             Json::Parse(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]},)"
                         R"("decoder":{"type":"ByteLevel"},"pre_tokenizer":)" +
                             pre_tokenizer + "}",
                         "abc.json")
                 .value())
      .value();
}

TEST(ByteLevelTest, EveryByteHasItsCharacter) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteToAlphabet(static_cast<uint8_t>(byte));
    EXPECT_EQ(AlphabetToBytes(character), std::string(1, static_cast<char>(byte)));
    all += character;
  }
  EXPECT_EQ(AlphabetToBytes(all)->size(), 256u);
  EXPECT_EQ(ByteToAlphabet(' '), "\u0120");
  EXPECT_EQ(ByteToAlphabet('\n'), "\u010a");
  EXPECT_EQ(ByteToAlphabet(0xad), "\u0143");
  EXPECT_FALSE(AlphabetToBytes(" ").has_value());
  EXPECT_FALSE(AlphabetToBytes("\u0144").has_value());
  EXPECT_FALSE(AlphabetToBytes("\xff").has_value());
}

TEST(TokenizerTest, TokensByIdAndName) {
  const auto tokenizer = Load(kTiny);
  const int32_t space = *tokenizer->TokenToId("\u0120");
  EXPECT_EQ(tokenizer->IdToToken(space), "\u0120");
  EXPECT_EQ(tokenizer->TokenBytes(space), " ");
  EXPECT_FALSE(tokenizer->IsSpecial(space));
  const int32_t end = *tokenizer->TokenToId("<|end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(end));
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{end, space, end}, true), " ");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{end, space, end}, false), "<|end|> <|end|>");
  EXPECT_FALSE(tokenizer->TokenToId("no such token").has_value());
  for (const int32_t id : {-1, tokenizer->vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(tokenizer->IdToToken(id), "");
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{id}, false), "");
  }
}

TEST(TokenizerTest, ATokenByItselfIsValidText) {
  const auto bytes = Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json")).value();
  EXPECT_EQ(bytes->TokenText(*bytes->TokenToId("\u0120the")), " the");
  EXPECT_EQ(bytes->TokenText(*bytes->TokenToId("<|endoftext|>")), "<|endoftext|>");
  EXPECT_EQ(bytes->TokenText(*bytes->TokenToId("\u00c3")), kReplacement);  // of two bytes the first
  const auto characters =
      Tokenizer::ReadFile(SourceFile("tests/golden/tokenizer/spm_llama.json")).value();
  EXPECT_EQ(characters->TokenText(*characters->TokenToId("<s>")), "<s>");
  EXPECT_EQ(characters->TokenText(*characters->TokenToId("\u2581the")), " the");
  EXPECT_EQ(characters->TokenText(*characters->TokenToId("<0x0A>")), "\n");
  EXPECT_EQ(characters->TokenText(*characters->TokenToId("<0xF0>")), kReplacement);
  for (const Tokenizer* tokenizer : {bytes.get(), characters.get()}) {
    for (int32_t id = -1; id <= tokenizer->vocab_size(); ++id) {
      const std::string text = tokenizer->TokenText(id);
      EXPECT_EQ(FirstInvalidUtf8(text), text.size()) << id;
    }
  }
}

TEST(TokenizerTest, RefusesInvalidUtf8WithItsPlace) {
  const auto tokenizer = Load(kTiny);
  const auto ids = tokenizer->Encode("caf\xe9 x");
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ids.status().message(), "the text is not valid UTF-8: byte 0xe9 at offset 3");
  EXPECT_FALSE(tokenizer->Encode("\xed\xa0\x80").ok());
  EXPECT_FALSE(tokenizer->Encode("cut \xf0\x9f\x98").ok());
}

TEST(TokenizerTest, RefusesBytesThatTheVocabularyLacks) {
  const auto tokenizer = Abc(R"({"type":"ByteLevel","add_prefix_space":false})");
  EXPECT_EQ(*tokenizer->Encode("cab"), (std::vector<int32_t>{2, 0, 1}));
  EXPECT_EQ(tokenizer->Encode("ca d").status().message(),
            "the tokenizer's vocabulary lacks the byte 0x20, which the text needs");
}

TEST(TokenizerTest, SpecialTokensAroundATextOnRequest) {
  const auto tokenizer = Load(kFolder + "spm_first.json");  // <s> before, </s> behind
  const std::vector<int32_t> bare = *tokenizer->Encode("the fox", AddSpecialTokens::kNo);
  ASSERT_FALSE(bare.empty());
  EXPECT_EQ(tokenizer->IdToToken(bare[0]), "\u2581the");
  std::vector<int32_t> whole = {*tokenizer->TokenToId("<s>")};
  whole.insert(whole.end(), bare.begin(), bare.end());
  whole.push_back(*tokenizer->TokenToId("</s>"));
  EXPECT_EQ(*tokenizer->Encode("the fox", AddSpecialTokens::kYes), whole);
  EXPECT_EQ(*tokenizer->Encode("the fox"), whole);
  EXPECT_EQ(tokenizer->Decode(whole, true), "the fox");
  EXPECT_EQ(tokenizer->Encode("")->size(), 2u);
  EXPECT_TRUE(tokenizer->Encode("", AddSpecialTokens::kNo)->empty());
}

TEST(TokenizerTest, RefusesCharactersThatNothingStandsFor) {
  const auto tokenizer =
      Tokenizer::FromJson(
          Json::Parse(
              R"({"model":{"type":"BPE","vocab":{"a":0,"\u2581":1,"\u00e9":2},"merges":[]},)"
              R"("pre_tokenizer":{"type":"Metaspace","replacement":"\u2581"},)"
              R"("decoder":{"type":"Metaspace","replacement":"\u2581"}})",
              "abc.json")
              .value())
          .value();
  EXPECT_EQ(*tokenizer->Encode("a \u00e9"), (std::vector<int32_t>{1, 0, 1, 2}));
  EXPECT_EQ(tokenizer->Encode("a\u00ea").status().message(),
            "the tokenizer's vocabulary lacks the character U+00EA, which the text needs, and a "
            "token for what is unknown");
}

TEST(TokenizerTest, ExpressionsMayMatchNothing) {
  const auto tokenizer =
      Abc(R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)"
          R"("invert":false,"pattern":{"Regex":"b*"}},)"
          R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  EXPECT_EQ(*tokenizer->Encode("abbca"), (std::vector<int32_t>{0, 1, 1, 2, 0}));
}

TEST(TokenizerTest, EndlessBacktrackingIsAnErrorNotAHang) {
  const auto tokenizer =
      Abc(R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)"
          R"("invert":false,"pattern":{"Regex":"(a|aa|b)+$"}},)"
          R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  EXPECT_EQ(tokenizer->Encode(std::string(100, 'a') + "c").status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(tokenizer->Encode("aab").ok());
}

// It ends before it begins: the search would stand still and give out words for ever.
TEST(TokenizerTest, AnExpressionThatMatchesBackwardsIsRefused) {
  const auto tokenizer =
      Abc(R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)"
          R"re("invert":false,"pattern":{"Regex":"(?=(?1))(?(DEFINE)(ab\\K))"}},)re"
          R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})");
  EXPECT_TRUE(Fails(tokenizer->Encode("cab").status(), absl::StatusCode::kInvalidArgument,
                    "matches backwards"));
}

// Quadratic algorithms would take minutes here. Of the SentencePiece kind, whose texts are one word
// each, spm_gemma has tokens over several words.
class LongTextTest : public ::testing::TestWithParam<const char*> {};

TEST_P(LongTextTest, TakesBoundedTime) {
  const auto tokenizer = Load(kFolder + GetParam());
  const auto start = std::chrono::steady_clock::now();
  for (const std::string unit : {"a", " ", "the", "\u0301", "[r] ", " [lr] ", "\n", "1", "!",
                                 "the lazy dog, \u65e5\u672c "}) {
    std::string text;
    while (text.size() < 300'000) text += unit;
    if (unit == "a") text.resize(1'000'000, 'a');
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_FALSE(ids->empty());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

INSTANTIATE_TEST_SUITE_P(Kinds, LongTextTest,
                         ::testing::Values("tiny.json", "spm_llama.json", "spm_gemma.json"),
                         [](const auto& param) {
                           const std::string file = param.param;
                           return file.substr(0, file.find('.'));
                         });

TEST(TokenizerTest, ThreadsShareOne) {
  const auto tokenizer = Load(kTiny);
  const std::string text = "The caf\u00e9 there, cafe\u0301 [lr] 12 <|end|> \U0001f600\n";
  const std::vector<int32_t> expected = *tokenizer->Encode(text);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) EXPECT_EQ(*tokenizer->Encode(text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerTest, FileErrorsSayWhichFile) {
  const TempDir dir;
  const std::string path = dir.File("tokenizer.json");
  EXPECT_EQ(Tokenizer::ReadFile(path).status().code(), absl::StatusCode::kNotFound);
  WriteFile(path, R"({"model":)");
  const absl::Status status = Tokenizer::ReadFile(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()).rfind("tokenizer.json: not valid JSON: ", 0), 0u)
      << status;
}

}  // namespace
}  // namespace polystrate
