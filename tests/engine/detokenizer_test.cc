#include "engine/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "engine/utf8.h"

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

  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::ReadFile(std::string(POLYSTRATE_SOURCE_DIR) + "/tests/golden/tokenizer/tiny.json")
          .value();
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
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) {
      ids.push_back(static_cast<int32_t>(random() % 340) - 2);
    }
    const bool skip_special = round % 2 == 0;
    Detokenizer detokenizer(*tokenizer_, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      const std::string piece = detokenizer.Append(id);
      EXPECT_EQ(FirstInvalidUtf8(piece), piece.size());
      text += piece;
    }
    text += detokenizer.Flush();
    ASSERT_EQ(text, tokenizer_->Decode(ids, skip_special));
  }
}

}  // namespace
}  // namespace polystrate
