#include "engine/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  Bpe Build(bool ignore_merges = false) const {
    return Bpe::Create(BpeSymbols::Bytes(bytes), bytes, merges, ignore_merges);
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
  const Bpe bpe = vocabulary.Build();
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
    const Bpe bpe = vocabulary.Build();
    for (const size_t length : {1, 2, 3, 7, 20, 47, 48, 49, 50, 200}) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word += "abcd"[random() % 4];
      ASSERT_EQ(Encode(bpe, word), Slow(vocabulary, word)) << word;
    }
  }
}

// Text is cut at marks of spaces only where this changes nothing. Characters: a, b, and the mark.
TEST(BpeTest, WordsWithMarksEqualTheDefinition) {
  std::mt19937 random(12);
  int with_marks_inside = 0;
  for (int round = 0; round < 60; ++round) {
    Vocabulary vocabulary("abc");
    vocabulary.bytes[2] = "\u2581";
    bool inside = false;
    for (int i = 0; i < 12; ++i) {
      const auto size = static_cast<uint32_t>(vocabulary.bytes.size());
      const auto left = static_cast<int32_t>(random() % size);
      const auto right = static_cast<int32_t>(random() % size);
      const std::string joined = *vocabulary.bytes[left] + *vocabulary.bytes[right];
      const size_t letter = joined.find_first_of("ab");
      const bool is_inside = letter != joined.npos && joined.find("\u2581", letter) != joined.npos;
      if (is_inside && round % 2 == 0) continue;
      inside |= is_inside;
      const bool known = std::any_of(
          vocabulary.merges.begin(), vocabulary.merges.end(),
          [&](const Bpe::Merge& merge) { return merge.left == left && merge.right == right; });
      if (!known) vocabulary.Join(left, right);
    }
    with_marks_inside += inside;
    const Bpe bpe = Bpe::Create(BpeSymbols::Characters(vocabulary.bytes, {}), vocabulary.bytes,
                                vocabulary.merges, false);
    for (const size_t length : {1, 2, 3, 7, 20, 49, 120}) {
      std::string word;
      std::string letters;  // what Slow reads: c for a mark
      for (size_t i = 0; i < length; ++i) {
        letters += "abcc"[random() % 4];
        word += letters.back() == 'c' ? "\u2581" : letters.substr(i);
      }
      ASSERT_EQ(Encode(bpe, word), Slow(vocabulary, letters)) << word;
    }
  }
  EXPECT_GT(with_marks_inside, 20);
}

TEST(BpeSymbolsTest, UnknownCharacters) {
  std::vector<std::optional<std::string>> texts = {"a", "<unk>", "<0xC3>", "<0xA9>", "\u65e5"};
  const auto encode = [&](const BpeSymbols::Unknown& unknown, const std::string& text) {
    std::vector<int32_t> ids;
    const absl::Status status = BpeSymbols::Characters(texts, unknown).Append(text, ids);
    return status.ok() ? ids : std::vector<int32_t>{-1};
  };
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(encode({}, "a\u65e5a"), (Ids{0, 4, 0}));
  EXPECT_EQ(encode({}, "ab"), Ids{-1});
  EXPECT_EQ(encode({.unk = 1}, "abba\u00e9"), (Ids{0, 1, 1, 0, 1}));
  EXPECT_EQ(encode({.unk = 1, .fuse_unk = true}, "abba\u00e9"), (Ids{0, 1, 0, 1}));
  EXPECT_EQ(encode({.byte_fallback = true}, "a\u00e9"), (Ids{0, 2, 3}));
  EXPECT_EQ(encode({.byte_fallback = true}, "\u00ea"), Ids{-1});  // 0xaa is missing
  EXPECT_EQ(encode({.byte_fallback = true, .unk = 1}, "\u00ea\u00e9a"), (Ids{2, 3, 1, 0}));
  EXPECT_EQ(BpeSymbols::Characters(texts, {}).Find("\u65e5"), 4);
  EXPECT_EQ(BpeSymbols::Characters(texts, {}).Find("\u672c"), -1);
}

TEST(BpeTest, TheLastRankOfAPairCounts) {
  Vocabulary vocabulary("abc");
  const int32_t ab = vocabulary.Join(0, 1);
  const int32_t bc = vocabulary.Join(1, 2);
  vocabulary.merges.push_back({0, 1, ab});
  const Bpe bpe = vocabulary.Build();
  EXPECT_EQ(Encode(bpe, "abc"), (std::vector<int32_t>{0, bc}));
}

TEST(BpeTest, IgnoreMergesTakesWholeWords) {
  Vocabulary vocabulary("ab");
  vocabulary.bytes.emplace_back("bab");  // no merge makes it
  EXPECT_EQ(Encode(vocabulary.Build(), "bab"), (std::vector<int32_t>{1, 0, 1}));
  EXPECT_EQ(Encode(vocabulary.Build(/*ignore_merges=*/true), "bab"), std::vector<int32_t>{2});
}

TEST(BpeTest, RefusesBytesOutsideTheVocabulary) {
  const Vocabulary vocabulary("ab");
  const Bpe bpe = vocabulary.Build();
  std::vector<int32_t> ids = {7};
  const absl::Status status = bpe.Encode("ab\nb", ids);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "the tokenizer's vocabulary lacks the byte 0x0a, which the text needs");
  EXPECT_EQ(ids, std::vector<int32_t>{7});
}

}  // namespace
}  // namespace polystrate
