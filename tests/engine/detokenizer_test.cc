#include "engine/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

class DetokenizerTest : public ::testing::Test {
 protected:
  // The ids of single bytes: nothing merges them.
  std::vector<int32_t> BytesOf(const std::string& bytes) const {
    std::vector<int32_t> ids;
    for (const char c : bytes) {
      for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
        if (tokenizer_->TokenBytes(id) == std::string(1, c)) {
          ids.push_back(id);
          break;
        }
      }
    }
    return ids;
  }

  static std::unique_ptr<Tokenizer> Load(const std::string& name) {
    return Tokenizer::ReadFile(SourceFile("tests/golden/tokenizer/") + name + ".json").value();
  }

  const std::unique_ptr<Tokenizer> tokenizer_ = Load("tiny");
};

TEST_F(DetokenizerTest, HoldsBackIncompleteCharacters) {
  Detokenizer detokenizer(*tokenizer_);
  const std::vector<int32_t> ids = BytesOf("a\u00e9\U0001f600.");
  const std::vector<std::string> expected = {"a", "", "\u00e9", "", "", "", "\U0001f600", "."};
  ASSERT_EQ(ids.size(), expected.size());
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(detokenizer.Append(ids[i]), expected[i]);
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, ReplacesWhatIsCertainlyInvalid) {
  Detokenizer detokenizer(*tokenizer_);
  const std::vector<int32_t> ids = BytesOf("\xe2\x82 \xff\x80\xf0\x9f");
  const std::vector<std::string> expected = {"", "", "\ufffd ", "\ufffd", "\ufffd", "", ""};
  ASSERT_EQ(ids.size(), expected.size());
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(detokenizer.Append(ids[i]), expected[i]);
  EXPECT_EQ(detokenizer.Flush(), "\ufffd");
  EXPECT_EQ(detokenizer.Flush(), "");
}

TEST_F(DetokenizerTest, SkipsSpecialTokensOnRequest) {
  const int32_t end = *tokenizer_->TokenToId("<|end|>");
  EXPECT_EQ(Detokenizer(*tokenizer_).Append(end), "");
  EXPECT_EQ(Detokenizer(*tokenizer_, false).Append(end), "<|end|>");
}

TEST_F(DetokenizerTest, IdsWithoutTokenAreNothing) {
  Detokenizer detokenizer(*tokenizer_);
  for (const int32_t id : {-1, tokenizer_->vocab_size(), 1 << 30}) {
    EXPECT_EQ(detokenizer.Append(id), "");
  }
}

TEST_F(DetokenizerTest, RandomIdsStreamToWhatDecodeSays) {
  std::mt19937 random(3);
  for (const char* name : {"tiny", "spm_llama", "spm_few_bytes", "spm_first", "spm_always"}) {
    const auto tokenizer = Load(name);
    for (int round = 0; round < 500; ++round) {
      // Half of the rounds have mostly bytes, which are the first ids, in runs.
      const uint32_t num_ids = round % 4 < 2 ? 263 : 380;
      std::vector<int32_t> ids;
      for (uint32_t i = random() % 40; i > 0; --i) {
        ids.push_back(static_cast<int32_t>(random() % num_ids) - 2);
      }
      const bool skip_special = round % 2 == 0;
      Detokenizer detokenizer(*tokenizer, skip_special);
      std::string text;
      for (const int32_t id : ids) {
        const std::string piece = detokenizer.Append(id);
        EXPECT_EQ(FirstInvalidUtf8(piece), piece.size());
        text += piece;
      }
      text += detokenizer.Flush();
      ASSERT_EQ(text, tokenizer->Decode(ids, skip_special));
    }
  }
}

// Of a tokenizer with byte fallback that drops the first space.
class SpmDetokenizerTest : public DetokenizerTest {
 protected:
  std::vector<int32_t> Ids(const std::vector<std::string>& tokens) const {
    std::vector<int32_t> ids;
    for (const std::string& token : tokens) ids.push_back(spm_->TokenToId(token).value());
    return ids;
  }
  // One text for each token, and what Flush gave.
  std::vector<std::string> Stream(const std::vector<std::string>& tokens,
                                  const std::vector<int32_t>& prompt = {}) const {
    Detokenizer detokenizer(*spm_, /*skip_special_tokens=*/true, prompt);
    std::vector<std::string> texts;
    for (const int32_t id : Ids(tokens)) texts.push_back(detokenizer.Append(id));
    texts.push_back(detokenizer.Flush());
    return texts;
  }

  const std::unique_ptr<Tokenizer> spm_ = Load("spm_llama");
};

using Texts = std::vector<std::string>;

TEST_F(SpmDetokenizerTest, BytesBecomeTextWhenTheirRunEnds) {
  EXPECT_EQ(Stream({"a", "<0xC3>", "<0xA9>", "<0x0A>", "b"}),
            (Texts{"a", "", "", "", "\u00e9\nb", ""}));
  EXPECT_EQ(Stream({"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"}),
            (Texts{"", "", "", "", "\U0001f600"}));
}

TEST_F(SpmDetokenizerTest, OneInvalidByteSpoilsItsRun) {
  EXPECT_EQ(Stream({"<0x41>", "<0xFF>", "<0x42>", "a", "<0x43>"}),
            (Texts{"", "\ufffd\ufffd", "\ufffd", "a", "", "C"}));
  EXPECT_EQ(Stream({"<0xC3>", "a", "<0xC3>"}), (Texts{"", "\ufffda", "", "\ufffd"}));
}

TEST_F(SpmDetokenizerTest, TheFirstSpaceOfATextGoes) {
  EXPECT_EQ(Stream({"<s>", "\u2581the", "\u2581the"}), (Texts{"", "the", " the", ""}));
  EXPECT_EQ(Stream({"\u2581", "\u2581the"}), (Texts{"", " the", ""}));
  EXPECT_EQ(Stream({"<0x20>", "\u2581the"}), (Texts{"", " the", ""}));
}

TEST_F(SpmDetokenizerTest, AContinuationKeepsItsSpace) {
  EXPECT_EQ(Stream({"\u2581the"}, Ids({"<s>", "a"})), (Texts{" the", ""}));
  EXPECT_EQ(Stream({"\u2581the"}, Ids({"<s>"})), (Texts{"the", ""}));  // nothing visible before
}

TEST_F(SpmDetokenizerTest, MetaspaceDropsTheMarksOfTheFirstToken) {
  const auto tokenizer = Load("spm_always");
  const int32_t the = tokenizer->TokenToId("\u2581the").value();
  const int32_t start = tokenizer->TokenToId("<s>").value();
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{start, the, the}, true), "the the");
  EXPECT_EQ(Detokenizer(*tokenizer, true, std::vector<int32_t>{the}).Append(the), " the");
}

}  // namespace
}  // namespace polystrate
