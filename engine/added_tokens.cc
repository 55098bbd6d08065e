#include "engine/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "engine/utf8.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

// \w of Unicode's regular expressions (UTS 18, annex C), which single_word is defined by.
bool IsWord(uint32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  constexpr uint32_t kTypes = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || (U_GET_GC_MASK(c) & kTypes) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool IsSpace(uint32_t code_point) { return u_isUWhiteSpace(static_cast<UChar32>(code_point)); }

// The character that ends at `end` (> 0) of valid UTF-8.
Utf8Step CharacterBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return DecodeUtf8(text.substr(begin, end - begin));
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWord(DecodeUtf8(text).code_point);
}

bool EndsWithWord(std::string_view text) {
  return !text.empty() && IsWord(CharacterBefore(text, text.size()).code_point);
}

size_t SkipSpaceForward(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (!IsSpace(step.code_point)) break;
    at += step.num_bytes;
  }
  return at;
}

// Goes back over white space from `at`, not beyond `limit`.
size_t SkipSpaceBackward(std::string_view text, size_t at, size_t limit) {
  while (at > limit) {
    const Utf8Step step = CharacterBefore(text, at);
    if (!IsSpace(step.code_point)) break;
    at -= step.num_bytes;
  }
  return at;
}

}  // namespace

void AddedTokens::Add(const AddedToken& token) {
  CHECK(!token.content.empty());
  uint32_t node = 0;
  for (const char c : token.content) {
    const uint64_t edge = (uint64_t{node} << 8) | static_cast<unsigned char>(c);
    const auto [child, added] =
        children_.try_emplace(edge, static_cast<uint32_t>(token_at_node_.size()));
    if (added) token_at_node_.push_back(-1);
    node = child->second;
  }
  starts_token_[static_cast<unsigned char>(token.content[0])] = true;
  if (token_at_node_[node] < 0) token_at_node_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokens::Match AddedTokens::LongestAt(std::string_view text, size_t begin) const {
  Match match;
  uint32_t node = 0;
  for (size_t i = begin; i < text.size(); ++i) {
    const auto child = children_.find((uint64_t{node} << 8) | static_cast<unsigned char>(text[i]));
    if (child == children_.end()) break;
    node = child->second;
    if (token_at_node_[node] >= 0) match = {i + 1, token_at_node_[node]};
  }
  return match;
}

void AddedTokens::Split(std::string_view text, std::vector<TextPiece>& pieces) const {
  size_t done = 0;       // where the piece after the last token starts
  size_t space_end = 0;  // end of the white space that the last rstrip went over
  size_t i = 0;
  while (i < text.size()) {
    const Match match =
        starts_token_[static_cast<unsigned char>(text[i])] ? LongestAt(text, i) : Match();
    if (match.end == 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t begin = i;
    size_t end = match.end;
    i = match.end;  // matches do not overlap, not even with one that single_word throws away
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    // A match may start inside the white space that the rstrip before it went over. As in
    // `tokenizers` it counts all the same, unless its own lstrip leaves nothing of it.
    if (token.lstrip) begin = begin > done ? SkipSpaceBackward(text, begin, done) : done;
    if (token.rstrip) {
      // Without `space_end` a run of white space full of such tokens would be walked once for each.
      if (end >= space_end) space_end = SkipSpaceForward(text, end);
      end = std::max(end, space_end);
    }
    if (done < begin) pieces.push_back({text.substr(done, begin - done)});
    if (begin < end) pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done)});
}

}  // namespace polystrate
