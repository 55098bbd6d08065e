#include "engine/bpe.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace polystrate {
namespace {

// Tokens: one per letter of `letters`, then one per merge.
struct Vocabulary {
  std::vector<std::optional<std::string>> bytes;
  std::vector<Bpe::Merge> merges;

  explicit Vocabulary(const std::string& letters) {
    for (const char c : letters) bytes.emplace_back(std::string(1, c));
  }
  int32_t Join(int32_t left, int32_t right) {
    const auto result = static_cast<int32_t>(bytes.size());
    bytes.emplace_back(*bytes[static_cast<size_t>(left)] + *bytes[static_cast<size_t>(right)]);
    merges.push_back({left, right, result});
    return result;
  }
};

// The definition: as long as there is a pair with a rank, join the leftmost of the lowest.
std::vector<int32_t> Slow(const Vocabulary& vocabulary, const std::string& word) {
  std::vector<int32_t> ids;
  for (const char c : word) ids.push_back(c - 'a');
  while (true) {
    size_t best = vocabulary.merges.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        const Bpe::Merge& merge = vocabulary.merges[rank];
        if (merge.left != ids[i] || merge.right != ids[i + 1]) continue;
        best = rank;
        at = i;
      }
    }
    if (best == vocabulary.merges.size()) return ids;
    ids[at] = vocabulary.merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

std::vector<int32_t> Encode(const Bpe& bpe, const std::string& word) {
  std::vector<int32_t> ids;
  EXPECT_TRUE(bpe.Encode(word, ids).ok());
  return ids;
}

TEST(BpeTest, LowestRankThenLeftmost) {
  Vocabulary vocabulary("abc");
  const int32_t bc = vocabulary.Join(1, 2);
  const int32_t ab = vocabulary.Join(0, 1);
  const Bpe bpe = Bpe::Create(vocabulary.bytes, vocabulary.merges, false);
  EXPECT_EQ(Encode(bpe, "abc"), (std::vector<int32_t>{0, bc}));
  EXPECT_EQ(Encode(bpe, "ababc"), (std::vector<int32_t>{ab, 0, bc}));
  EXPECT_EQ(Encode(bpe, ""), std::vector<int32_t>());
}

TEST(BpeTest, EqualsTheDefinitionForWordsOfEveryLength) {
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    Vocabulary vocabulary("abcd");
    for (int i = 0; i < 30; ++i) {
      const auto size = static_cast<uint32_t>(vocabulary.bytes.size());
      vocabulary.Join(static_cast<int32_t>(random() % size), static_cast<int32_t>(random() % size));
    }
    // A pair may have been drawn twice: the last rank counts, so the first one goes.
    for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
      for (size_t j = i + 1; j < vocabulary.merges.size(); ++j) {
        if (vocabulary.merges[i].left == vocabulary.merges[j].left &&
            vocabulary.merges[i].right == vocabulary.merges[j].right) {
          vocabulary.merges.erase(vocabulary.merges.begin() + static_cast<std::ptrdiff_t>(i--));
          break;
        }
      }
    }
    const Bpe bpe = Bpe::Create(vocabulary.bytes, vocabulary.merges, false);
    for (const size_t length : {1, 2, 3, 7, 20, 47, 48, 49, 50, 200}) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word += "abcd"[random() % 4];
      ASSERT_EQ(Encode(bpe, word), Slow(vocabulary, word)) << word;
    }
  }
}

TEST(BpeTest, TheLastRankOfAPairCounts) {
  Vocabulary vocabulary("abc");
  const int32_t ab = vocabulary.Join(0, 1);
  const int32_t bc = vocabulary.Join(1, 2);
  vocabulary.merges.push_back({0, 1, ab});
  const Bpe bpe = Bpe::Create(vocabulary.bytes, vocabulary.merges, false);
  EXPECT_EQ(Encode(bpe, "abc"), (std::vector<int32_t>{0, bc}));
}

TEST(BpeTest, IgnoreMergesTakesWholeWords) {
  Vocabulary vocabulary("ab");
  vocabulary.bytes.emplace_back("bab");  // no merge makes it
  EXPECT_EQ(Encode(Bpe::Create(vocabulary.bytes, {}, false), "bab"),
            (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(Encode(Bpe::Create(vocabulary.bytes, {}, true), "bab"), std::vector<int32_t>{2});
}

TEST(BpeTest, RefusesBytesOutsideTheVocabulary) {
  const Vocabulary vocabulary("ab");
  const Bpe bpe = Bpe::Create(vocabulary.bytes, {}, false);
  std::vector<int32_t> ids = {7};
  const absl::Status status = bpe.Encode("ab\nb", ids);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "the tokenizer's vocabulary lacks the byte 0x0a, which the text needs");
  EXPECT_EQ(ids, std::vector<int32_t>{7});
}

}  // namespace
}  // namespace polystrate
