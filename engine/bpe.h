// Bpe: byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over bytes or characters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "engine/bpe_symbols.h"

namespace polystrate {

// Token ids are [0, num_tokens). Movable; const and thread-safe once built.
class Bpe {
 public:
  struct Merge {
    int32_t left = 0;
    int32_t right = 0;
    int32_t result = 0;  // the token they become
  };

  // `merges` in order of rank, the first is applied first; where a pair is listed twice the last
  // counts, as in `tokenizers`. `token_texts[id]` is what a token stands for in the words that
  // Encode takes; tokens without (nullopt) are never produced. With `ignore_merges` a word that is
  // a token becomes that token whatever the merges say. Ids in `merges` are CHECKed.
  static Bpe Create(BpeSymbols symbols, const std::vector<std::optional<std::string>>& token_texts,
                    const std::vector<Merge>& merges, bool ignore_merges);

  // Appends the tokens of one word, of any length: O(n log n). INVALID_ARGUMENT when the vocabulary
  // lacks one of its symbols; `ids` is then left as it was.
  absl::Status Encode(std::string_view word, std::vector<int32_t>& ids) const;

  // The token that a word becomes whole, or -1.
  int32_t WholeWord(std::string_view word) const {
    const auto found = whole_words_.find(absl::string_view(word.data(), word.size()));
    return found == whole_words_.end() ? -1 : found->second;
  }

 private:
  explicit Bpe(BpeSymbols symbols) : symbols_(std::move(symbols)) {}
  struct Rank {
    int32_t rank;
    int32_t result;
  };
  static uint64_t Pair(int32_t left, int32_t right) {
    return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
  }
  // Rank and result of a pair, or rank kNever.
  Rank RankOf(int32_t left, int32_t right) const;
  // Whether no merge joins a space mark to something else on its left.
  static bool MarksBeginTokens(const std::vector<std::optional<std::string>>& token_texts,
                               const std::vector<Merge>& merges);
  absl::Status EncodeWhole(std::string_view word, std::vector<int32_t>& ids) const;
  void MergeShort(std::vector<int32_t>& ids, size_t begin) const;
  void MergeLong(std::vector<int32_t>& ids, size_t begin) const;

  BpeSymbols symbols_;
  bool cut_at_marks_ = false;  // what is left of a space mark can be encoded by itself
  absl::flat_hash_map<uint64_t, Rank> ranks_;
  // Words that end as a single token. The commonest words are, so this is the encoder's cache, and
  // one that threads share without a lock.
  absl::flat_hash_map<std::string, int32_t> whole_words_;
};

}  // namespace polystrate
