#include "engine/tokenizer_file.h"

#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "engine/byte_level.h"
#include "engine/tokenizer_json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

// Ids must be 0 .. n - 1: the engine indexes by them, and `tokenizers` gives added tokens other ids
// than the file says when there are gaps.
absl::Status ReadVocabulary(const JsonView& model, TokenizerParts& parts, TokenIds& ids) {
  ASSIGN_OR_RETURN(const JsonView vocab, model.GetObject("vocab"));
  const auto members = vocab.Members();
  const auto num_tokens = static_cast<int64_t>(members.size());
  if (num_tokens == 0) return TokenizerError(model, "\"vocab\" is empty");
  parts.tokens.resize(members.size());
  parts.model_texts.resize(members.size());
  std::vector<bool> taken(members.size());
  ids.reserve(members.size());
  for (const auto& [token, value] : members) {
    ASSIGN_OR_RETURN(const int64_t id, value.AsInt(token));
    if (id < 0 || id >= num_tokens) {
      return TokenizerError(
          model, absl::StrFormat("\"vocab\" has %d tokens but gives \"%s\" the id %d; ids "
                                 "must be 0 to %d without gaps",
                                 num_tokens, token, id, num_tokens - 1));
    }
    const auto index = static_cast<size_t>(id);
    if (taken[index]) {
      return TokenizerError(
          model, absl::StrFormat("\"vocab\" gives the id %d to both \"%s\" and \"%s\"", id,
                                 parts.tokens[index], token));
    }
    taken[index] = true;
    parts.tokens[index] = std::string(token);
    parts.model_texts[index] =
        parts.byte_level ? AlphabetToBytes(token) : std::make_optional<std::string>(token);
    ids.emplace(std::string(token), static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

// The two sides of a merge, from "a b" or ["a", "b"].
absl::StatusOr<std::pair<std::string, std::string>> MergeSides(const JsonView& merge) {
  constexpr std::string_view kExpected = "two tokens, as \"a b\" or [\"a\", \"b\"]";
  if (merge.IsArray() && merge.size() == 2) {
    ASSIGN_OR_RETURN(const std::string_view left, merge.at(0).AsString("merges"));
    ASSIGN_OR_RETURN(const std::string_view right, merge.at(1).AsString("merges"));
    return std::make_pair(std::string(left), std::string(right));
  }
  if (!merge.IsString()) return merge.Unexpected("merges", kExpected);
  ASSIGN_OR_RETURN(const std::string_view text, merge.AsString("merges"));
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
    return merge.Unexpected("merges", kExpected);
  }
  return std::make_pair(std::string(text.substr(0, space)), std::string(text.substr(space + 1)));
}

absl::Status ReadMerges(const JsonView& model, const TokenIds& ids, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const JsonView merges, model.GetArray("merges"));
  parts.merges.reserve(static_cast<size_t>(merges.size()));
  for (const JsonView& merge : merges.Elements()) {
    ASSIGN_OR_RETURN(const auto sides, MergeSides(merge));
    const std::string* const names[] = {&sides.first, &sides.second, nullptr};
    const std::string result = sides.first + sides.second;
    int32_t found[3];
    for (int i = 0; i < 3; ++i) {
      const std::string& name = names[i] != nullptr ? *names[i] : result;
      const auto id = ids.find(name);
      if (id == ids.end()) {
        return TokenizerError(
            model, absl::StrFormat("\"merges\" entry %d joins \"%s\" and \"%s\", but "
                                   "\"vocab\" has no token \"%s\"",
                                   parts.merges.size(), sides.first, sides.second, name));
      }
      found[i] = id->second;
    }
    parts.merges.push_back({found[0], found[1], found[2]});
  }
  return absl::OkStatus();
}

// What the model does with characters that it has no token for. Byte-level BPE has none.
absl::Status ReadUnknown(const JsonView& model, TokenizerParts& parts, const TokenIds& ids) {
  ASSIGN_OR_RETURN(parts.unknown.byte_fallback, model.GetBoolOr("byte_fallback", false));
  if (parts.byte_level) {
    if (!parts.unknown.byte_fallback) return absl::OkStatus();
    return UnsupportedInTokenizer(model, "model", "byte_fallback of byte-level BPE");
  }
  ASSIGN_OR_RETURN(parts.unknown.fuse_unk, model.GetBoolOr("fuse_unk", false));
  if (!model.Has("unk_token")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string unk_token, model.GetString("unk_token"));
  const auto unk = ids.find(unk_token);
  if (unk == ids.end()) {
    return TokenizerError(
        model, absl::StrFormat("\"unk_token\" is \"%s\", which is not in \"vocab\"", unk_token));
  }
  parts.unknown.unk = unk->second;
  return absl::OkStatus();
}

absl::Status ReadModel(const JsonView& root, TokenizerParts& parts, TokenIds& ids) {
  ASSIGN_OR_RETURN(const JsonView model, root.GetObject("model"));
  ASSIGN_OR_RETURN(const std::string type, model.GetStringOr("type", "BPE"));
  if (type != "BPE") return UnsupportedInTokenizer(root, "model", type + " (only BPE)");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, model.GetStringOr(key, ""));
    if (!affix.empty()) return UnsupportedInTokenizer(root, "model", key);
  }
  ASSIGN_OR_RETURN(const double dropout, model.GetDoubleOr("dropout", 0));
  if (dropout != 0) return UnsupportedInTokenizer(root, "model", "dropout");
  ASSIGN_OR_RETURN(parts.ignore_merges, model.GetBoolOr("ignore_merges", false));
  RETURN_IF_ERROR(ReadVocabulary(model, parts, ids));
  RETURN_IF_ERROR(ReadUnknown(model, parts, ids));
  return ReadMerges(model, ids, parts);
}

absl::Status ReadAddedTokens(const JsonView& root, TokenizerParts& parts, TokenIds& ids) {
  if (!root.Has("added_tokens")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const JsonView list, root.GetArray("added_tokens"));
  absl::flat_hash_set<int32_t> listed;
  for (const JsonView& entry : list.Elements()) {
    if (!entry.IsObject()) return entry.Unexpected("added_tokens", "an array of objects");
    AddedToken token;
    ASSIGN_OR_RETURN(token.content, entry.GetString("content"));
    ASSIGN_OR_RETURN(const int64_t id, entry.GetInt("id"));
    ASSIGN_OR_RETURN(token.special, entry.GetBoolOr("special", false));
    ASSIGN_OR_RETURN(token.lstrip, entry.GetBoolOr("lstrip", false));
    ASSIGN_OR_RETURN(token.rstrip, entry.GetBoolOr("rstrip", false));
    ASSIGN_OR_RETURN(token.single_word, entry.GetBoolOr("single_word", false));
    ASSIGN_OR_RETURN(token.normalized, entry.GetBoolOr("normalized", !token.special));
    if (token.content.empty())
      return TokenizerError(root, "\"added_tokens\" has one with empty content");
    // A token the model knows keeps its id; others follow in the order they are listed.
    const auto [known, added] =
        ids.try_emplace(token.content, static_cast<int32_t>(parts.tokens.size()));
    if (id != known->second) {
      return TokenizerError(root,
                            absl::StrFormat("\"added_tokens\" gives \"%s\" the id %d, expected %d",
                                            token.content, id, known->second));
    }
    if (added) parts.tokens.push_back(token.content);
    if (!listed.insert(known->second).second) {
      return TokenizerError(root,
                            absl::StrFormat("\"added_tokens\" lists \"%s\" twice", token.content));
    }
    token.id = known->second;
    parts.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitPattern> ReadSplit(const JsonView& root, const JsonView& split) {
  SplitPattern result;
  ASSIGN_OR_RETURN(const std::string behavior, split.GetString("behavior"));
  if (behavior == "MergedWithPrevious") {
    result.behavior = SplitBehavior::kMergedWithPrevious;
  } else if (behavior == "MergedWithNext") {
    result.behavior = SplitBehavior::kMergedWithNext;
  } else if (behavior != "Isolated") {
    return UnsupportedInTokenizer(root, "pre_tokenizer", "Split with behavior " + behavior);
  }
  ASSIGN_OR_RETURN(const bool invert, split.GetBoolOr("invert", false));
  if (invert) return UnsupportedInTokenizer(root, "pre_tokenizer", "Split with invert");
  ASSIGN_OR_RETURN(const JsonView pattern, split.GetObject("pattern"));
  if (pattern.Has("Regex")) {
    ASSIGN_OR_RETURN(result.expression, pattern.GetString("Regex"));
  } else {
    ASSIGN_OR_RETURN(const std::string text, LiteralPattern(split, "pre_tokenizer"));
    result.expression = LiteralExpression(text);
  }
  return result;
}

absl::Status ReadByteLevel(const JsonView& component, TokenizerParts& parts) {
  parts.byte_level = true;
  ASSIGN_OR_RETURN(parts.add_prefix_space, component.GetBoolOr("add_prefix_space", true));
  if (parts.add_prefix_space && !parts.splits.empty()) {
    return UnsupportedInTokenizer(component, "pre_tokenizer", "add_prefix_space behind a Split");
  }
  ASSIGN_OR_RETURN(const bool use_regex, component.GetBoolOr("use_regex", true));
  if (use_regex) parts.splits.push_back({kGpt2Pattern});
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const JsonView& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto components,
                   TokenizerComponents(root, "pre_tokenizer", "pretokenizers"));
  for (const JsonView& component : components) {
    ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
    if (parts.byte_level) {
      return UnsupportedInTokenizer(root, "pre_tokenizer", type + " behind ByteLevel");
    }
    if (type == "Split") {
      ASSIGN_OR_RETURN(SplitPattern split, ReadSplit(root, component));
      parts.splits.push_back(std::move(split));
    } else if (type == "Digits") {
      ASSIGN_OR_RETURN(const bool individual, component.GetBoolOr("individual_digits", false));
      parts.splits.push_back({individual ? "\\p{N}" : "\\p{N}+"});
    } else if (type == "Metaspace") {
      if (&component != &components[0]) {
        return UnsupportedInTokenizer(root, "pre_tokenizer", "Metaspace behind another");
      }
      ASSIGN_OR_RETURN(parts.metaspace, Metaspace::Read(component, "pre_tokenizer"));
    } else if (type == "ByteLevel") {
      if (parts.metaspace.has_value()) {
        return UnsupportedInTokenizer(root, "pre_tokenizer", "ByteLevel behind Metaspace");
      }
      RETURN_IF_ERROR(ReadByteLevel(component, parts));
    } else {
      return UnsupportedInTokenizer(root, "pre_tokenizer", type);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadDecoder(const JsonView& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(parts.decoder, TokenDecoder::Read(root));
  if (parts.decoder.byte_level() == parts.byte_level) return absl::OkStatus();
  return UnsupportedInTokenizer(root, "decoder",
                                parts.byte_level
                                    ? "anything but ByteLevel behind the pre_tokenizer ByteLevel"
                                    : "ByteLevel without the pre_tokenizer ByteLevel");
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadTokenizerParts(const JsonView& root) {
  if (!root.IsObject()) return TokenizerError(root, "expected an object with \"model\"");
  TokenizerParts parts;
  TokenIds ids;
  ASSIGN_OR_RETURN(parts.normalizer, Normalizer::Read(root));
  RETURN_IF_ERROR(ReadPreTokenizer(root, parts));
  RETURN_IF_ERROR(ReadDecoder(root, parts));
  RETURN_IF_ERROR(ReadModel(root, parts, ids));
  RETURN_IF_ERROR(ReadAddedTokens(root, parts, ids));
  ASSIGN_OR_RETURN(parts.post_processor,
                   PostProcessor::Read(root, static_cast<int64_t>(parts.tokens.size())));
  return parts;
}

}  // namespace polystrate
