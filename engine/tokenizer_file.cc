#include "engine/tokenizer_file.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "engine/byte_level.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

absl::Status Error(const JsonView& json, const std::string& what) {
  return absl::InvalidArgumentError(json.document() + ": " + what);
}

absl::Status Unsupported(const JsonView& json, std::string_view where, std::string_view what) {
  return Error(json, absl::StrFormat("\"%s\": %s is not supported", where, what));
}

// The parts of a component: itself, or the members of a "Sequence" under `list_key`; none for null.
absl::StatusOr<std::vector<JsonView>> Components(const JsonView& root, std::string_view key,
                                                 std::string_view list_key) {
  if (!root.Has(key)) return std::vector<JsonView>();
  ASSIGN_OR_RETURN(const JsonView component, root.GetObject(key));
  ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
  if (type != "Sequence") return std::vector<JsonView>{component};
  ASSIGN_OR_RETURN(const JsonView list, component.GetArray(list_key));
  for (const JsonView& element : list.Elements()) {
    if (!element.IsObject()) return element.Unexpected(list_key, "an array of objects");
  }
  return list.Elements();
}

// Ids must be 0 .. n - 1: the engine indexes by them, and `tokenizers` gives added tokens other ids
// than the file says when there are gaps.
absl::Status ReadVocabulary(const JsonView& model, TokenizerParts& parts, TokenIds& ids) {
  ASSIGN_OR_RETURN(const JsonView vocab, model.GetObject("vocab"));
  const auto members = vocab.Members();
  const auto num_tokens = static_cast<int64_t>(members.size());
  if (num_tokens == 0) return Error(model, "\"vocab\" is empty");
  parts.tokens.resize(members.size());
  parts.model_bytes.resize(members.size());
  std::vector<bool> taken(members.size());
  ids.reserve(members.size());
  for (const auto& [token, value] : members) {
    ASSIGN_OR_RETURN(const int64_t id, value.AsInt(token));
    if (id < 0 || id >= num_tokens) {
      return Error(model, absl::StrFormat("\"vocab\" has %d tokens but gives \"%s\" the id %d; ids "
                                          "must be 0 to %d without gaps",
                                          num_tokens, token, id, num_tokens - 1));
    }
    const auto index = static_cast<size_t>(id);
    if (taken[index]) {
      return Error(model, absl::StrFormat("\"vocab\" gives the id %d to both \"%s\" and \"%s\"", id,
                                          parts.tokens[index], token));
    }
    taken[index] = true;
    parts.tokens[index] = std::string(token);
    parts.model_bytes[index] = AlphabetToBytes(token);
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
        return Error(model, absl::StrFormat("\"merges\" entry %d joins \"%s\" and \"%s\", but "
                                            "\"vocab\" has no token \"%s\"",
                                            parts.merges.size(), sides.first, sides.second, name));
      }
      found[i] = id->second;
    }
    parts.merges.push_back({found[0], found[1], found[2]});
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const JsonView& root, TokenizerParts& parts, TokenIds& ids) {
  ASSIGN_OR_RETURN(const JsonView model, root.GetObject("model"));
  ASSIGN_OR_RETURN(const std::string type, model.GetStringOr("type", "BPE"));
  if (type != "BPE") return Unsupported(root, "model", type + " (only byte-level BPE)");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, model.GetStringOr(key, ""));
    if (!affix.empty()) return Unsupported(root, "model", key);
  }
  ASSIGN_OR_RETURN(const double dropout, model.GetDoubleOr("dropout", 0));
  if (dropout != 0) return Unsupported(root, "model", "dropout");
  ASSIGN_OR_RETURN(const bool byte_fallback, model.GetBoolOr("byte_fallback", false));
  if (byte_fallback) return Unsupported(root, "model", "byte_fallback");
  ASSIGN_OR_RETURN(parts.ignore_merges, model.GetBoolOr("ignore_merges", false));
  RETURN_IF_ERROR(ReadVocabulary(model, parts, ids));
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
    if (token.content.empty()) return Error(root, "\"added_tokens\" has one with empty content");
    // A token the model knows keeps its id; others follow in the order they are listed.
    const auto [known, added] =
        ids.try_emplace(token.content, static_cast<int32_t>(parts.tokens.size()));
    if (id != known->second) {
      return Error(root, absl::StrFormat("\"added_tokens\" gives \"%s\" the id %d, expected %d",
                                         token.content, id, known->second));
    }
    if (added) parts.tokens.push_back(token.content);
    if (!listed.insert(known->second).second) {
      return Error(root, absl::StrFormat("\"added_tokens\" lists \"%s\" twice", token.content));
    }
    token.id = known->second;
    parts.added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizer(const JsonView& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto components, Components(root, "normalizer", "normalizers"));
  for (const JsonView& component : components) {
    ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
    if (type != "NFC") return Unsupported(root, "normalizer", type);
    parts.normalization = Normalization::kNfc;
  }
  return absl::OkStatus();
}

// The expression of a Split.
absl::StatusOr<std::string> ReadSplit(const JsonView& root, const JsonView& split) {
  const absl::StatusOr<std::string> behavior = split.GetString("behavior");
  if (!behavior.ok()) return behavior.status();
  if (*behavior != "Isolated") {
    return Unsupported(root, "pre_tokenizer", "Split with behavior " + *behavior);
  }
  ASSIGN_OR_RETURN(const bool invert, split.GetBoolOr("invert", false));
  if (invert) return Unsupported(root, "pre_tokenizer", "Split with invert");
  ASSIGN_OR_RETURN(const JsonView pattern, split.GetObject("pattern"));
  if (!pattern.Has("Regex")) return Unsupported(root, "pre_tokenizer", "Split without a Regex");
  return pattern.GetString("Regex");
}

absl::Status ReadPreTokenizer(const JsonView& root, TokenizerParts& parts) {
  ASSIGN_OR_RETURN(const auto components, Components(root, "pre_tokenizer", "pretokenizers"));
  bool byte_level = false;
  for (const JsonView& component : components) {
    ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
    if (byte_level) return Unsupported(root, "pre_tokenizer", type + " behind ByteLevel");
    if (type == "Split") {
      ASSIGN_OR_RETURN(std::string pattern, ReadSplit(root, component));
      parts.patterns.push_back(std::move(pattern));
      continue;
    }
    if (type != "ByteLevel") return Unsupported(root, "pre_tokenizer", type);
    byte_level = true;
    ASSIGN_OR_RETURN(parts.add_prefix_space, component.GetBoolOr("add_prefix_space", true));
    if (parts.add_prefix_space && !parts.patterns.empty()) {
      return Unsupported(root, "pre_tokenizer", "add_prefix_space behind a Split");
    }
    ASSIGN_OR_RETURN(const bool use_regex, component.GetBoolOr("use_regex", true));
    if (use_regex) parts.patterns.emplace_back(kGpt2Pattern);
  }
  if (!byte_level) return Error(root, "\"pre_tokenizer\" has no ByteLevel (only byte-level BPE)");
  return absl::OkStatus();
}

absl::Status CheckTemplate(const JsonView& root, const JsonView& processor) {
  ASSIGN_OR_RETURN(const JsonView single, processor.GetArray("single"));
  for (const JsonView& piece : single.Elements()) {
    if (!piece.IsObject() || !piece.Has("Sequence")) {
      return Unsupported(root, "post_processor", "a TemplateProcessing that adds tokens");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDecoderAndPostProcessor(const JsonView& root) {
  ASSIGN_OR_RETURN(const auto decoders, Components(root, "decoder", "decoders"));
  if (decoders.empty()) return Error(root, "\"decoder\" is missing, expected ByteLevel");
  for (const JsonView& decoder : decoders) {
    ASSIGN_OR_RETURN(const std::string type, decoder.GetString("type"));
    if (type != "ByteLevel") return Unsupported(root, "decoder", type);
  }
  ASSIGN_OR_RETURN(const auto processors, Components(root, "post_processor", "processors"));
  for (const JsonView& processor : processors) {
    ASSIGN_OR_RETURN(const std::string type, processor.GetString("type"));
    if (type == "TemplateProcessing") {
      RETURN_IF_ERROR(CheckTemplate(root, processor));
    } else if (type != "ByteLevel") {
      return Unsupported(root, "post_processor", type);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadTokenizerParts(const JsonView& root) {
  if (!root.IsObject()) return Error(root, "expected an object with \"model\"");
  TokenizerParts parts;
  TokenIds ids;
  RETURN_IF_ERROR(ReadNormalizer(root, parts));
  RETURN_IF_ERROR(ReadPreTokenizer(root, parts));
  RETURN_IF_ERROR(CheckDecoderAndPostProcessor(root));
  RETURN_IF_ERROR(ReadModel(root, parts, ids));
  RETURN_IF_ERROR(ReadAddedTokens(root, parts, ids));
  return parts;
}

}  // namespace polystrate
