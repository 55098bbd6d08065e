#include "engine/bpe.h"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>

#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

// Up to this many symbols looking at every pair for each merge is faster than a heap.
constexpr size_t kMaxShort = 48;

// SentencePiece's mark of a space. Where it only begins tokens, or stands in a run of marks that
// does, text can be cut before such runs without a change: the parts are the words of the text,
// most of which are found whole. Text of this kind often comes without a pre-tokenizer.
constexpr std::string_view kSpaceMark = "\u2581";

// Where the first mark begins that is behind `begin` and follows something else; text.size(): none.
size_t NextMark(std::string_view text, size_t begin) {
  size_t at = text.find(kSpaceMark, begin + 1);
  while (at != text.npos && text.substr(0, at).ends_with(kSpaceMark)) {
    at = text.find(kSpaceMark, at + kSpaceMark.size());
  }
  return std::min(at, text.size());
}

}  // namespace

Bpe Bpe::Create(BpeSymbols symbols, const std::vector<std::optional<std::string>>& token_texts,
                const std::vector<Merge>& merges, bool ignore_merges) {
  Bpe bpe(std::move(symbols));
  const auto num_tokens = static_cast<int32_t>(token_texts.size());
  bpe.ranks_.reserve(merges.size());
  int32_t rank = 0;
  for (const Merge& merge : merges) {
    for (const int32_t id : {merge.left, merge.right, merge.result}) {
      CHECK(id >= 0 && id < num_tokens);
    }
    bpe.ranks_.insert_or_assign(Pair(merge.left, merge.right), Rank{rank++, merge.result});
  }
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < num_tokens; ++id) {
    const auto& text = token_texts[static_cast<size_t>(id)];
    if (!text.has_value() || text->empty()) continue;
    ids.clear();
    if (ignore_merges || (bpe.Encode(*text, ids).ok() && ids == std::vector<int32_t>{id})) {
      bpe.whole_words_.emplace(*text, id);
    }
  }
  bpe.cut_at_marks_ =
      !ignore_merges && bpe.symbols_.Find(kSpaceMark) >= 0 && MarksBeginTokens(token_texts, merges);
  return bpe;
}

bool Bpe::MarksBeginTokens(const std::vector<std::optional<std::string>>& token_texts,
                           const std::vector<Merge>& merges) {
  return std::all_of(merges.begin(), merges.end(), [&](const Merge& merge) {
    const auto& text = token_texts[static_cast<size_t>(merge.result)];
    return text.has_value() && NextMark(*text, 0) == text->size();
  });
}

Bpe::Rank Bpe::RankOf(int32_t left, int32_t right) const {
  const auto found = ranks_.find(Pair(left, right));
  return found == ranks_.end() ? Rank{kNever, -1} : found->second;
}

absl::Status Bpe::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  const size_t begin = ids.size();
  absl::Status status;
  if (!cut_at_marks_) {
    status = EncodeWhole(word, ids);
  } else {
    for (size_t done = 0; done < word.size() && status.ok();) {
      const size_t end = NextMark(word, done);
      status = EncodeWhole(word.substr(done, end - done), ids);
      done = end;
    }
  }
  if (!status.ok()) ids.resize(begin);
  return status;
}

absl::Status Bpe::EncodeWhole(std::string_view word, std::vector<int32_t>& ids) const {
  if (const int32_t id = WholeWord(word); id >= 0) {
    ids.push_back(id);
    return absl::OkStatus();
  }
  const size_t begin = ids.size();
  RETURN_IF_ERROR(symbols_.Append(word, ids));
  if (ids.size() - begin <= kMaxShort) {
    MergeShort(ids, begin);
  } else {
    MergeLong(ids, begin);
  }
  return absl::OkStatus();
}

// ids[begin, end) are the word's symbols; pairs[i] is the merge of symbols i and i + 1.
void Bpe::MergeShort(std::vector<int32_t>& ids, size_t begin) const {
  int32_t* const symbols = ids.data() + begin;
  size_t count = ids.size() - begin;
  std::array<Rank, kMaxShort> pairs;
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = RankOf(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNever) break;
    symbols[best] = pairs[best].result;
    --count;
    std::copy(symbols + best + 2, symbols + count + 1, symbols + best + 1);
    std::copy(pairs.begin() + best + 1, pairs.begin() + count, pairs.begin() + best);
    if (best > 0) pairs[best - 1] = RankOf(symbols[best - 1], symbols[best]);
    if (best + 1 < count) pairs[best] = RankOf(symbols[best], symbols[best + 1]);
  }
  ids.resize(begin + count);
}

// The same order of merges, lowest rank and then leftmost first, out of a heap: n log n.
void Bpe::MergeLong(std::vector<int32_t>& ids, size_t begin) const {
  struct Candidate {
    int32_t rank;
    uint32_t at;  // index of the left symbol
    int32_t left, right, result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  int32_t* const symbols = ids.data() + begin;  // -1 once merged into the symbol on its left
  const size_t count = ids.size() - begin;
  CHECK_LT(count, size_t{std::numeric_limits<uint32_t>::max()});
  const auto end = static_cast<uint32_t>(count);
  std::vector<uint32_t> next(count);
  std::vector<uint32_t> previous(count);  // end: none
  for (uint32_t i = 0; i < end; ++i) {
    next[i] = i + 1;
    previous[i] = i == 0 ? end : i - 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto push = [&](uint32_t left, uint32_t right) {
    const Rank rank = RankOf(symbols[left], symbols[right]);
    if (rank.rank == kNever) return;
    heap.push({rank.rank, left, symbols[left], symbols[right], rank.result});
  };
  for (uint32_t i = 0; i + 1 < end; ++i) push(i, i + 1);
  while (!heap.empty()) {
    const Candidate best = heap.top();
    heap.pop();
    const uint32_t right = next[best.at];
    // Either symbol may have become part of another merge meanwhile.
    if (symbols[best.at] != best.left || right == end || symbols[right] != best.right) continue;
    symbols[best.at] = best.result;
    symbols[right] = -1;
    next[best.at] = next[right];
    if (next[right] != end) {
      previous[next[right]] = best.at;
      push(best.at, next[right]);
    }
    if (previous[best.at] != end) push(previous[best.at], best.at);
  }
  ids.erase(std::remove(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end(), -1),
            ids.end());
}

}  // namespace polystrate
