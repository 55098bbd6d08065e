#include "engine/post_processor.h"

#include <string>

#include "absl/strings/str_format.h"
#include "engine/tokenizer_json.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

// Appends the ids of the special token that a template calls `name`.
absl::Status AppendIds(const JsonView& processor, const std::string& name, int64_t vocab_size,
                       std::vector<int32_t>& ids) {
  ASSIGN_OR_RETURN(const JsonView tokens, processor.GetObject("special_tokens"));
  ASSIGN_OR_RETURN(const JsonView token, tokens.GetObject(name));
  ASSIGN_OR_RETURN(const JsonView list, token.GetArray("ids"));
  for (const JsonView& element : list.Elements()) {
    ASSIGN_OR_RETURN(const int64_t id, element.AsInt("ids"));
    if (id < 0 || id >= vocab_size) {
      return TokenizerError(
          processor, absl::StrFormat("\"post_processor\" adds \"%s\" with the id %d, which is not "
                                     "in the vocabulary, [0, %d)",
                                     name, id, vocab_size));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::StatusOr<PostProcessor> ReadTemplate(const JsonView& processor, int64_t vocab_size) {
  PostProcessor added;
  ASSIGN_OR_RETURN(const JsonView single, processor.GetArray("single"));
  int num_texts = 0;
  for (const JsonView& piece : single.Elements()) {
    if (piece.IsObject() && piece.Has("SpecialToken")) {
      ASSIGN_OR_RETURN(const JsonView token, piece.GetObject("SpecialToken"));
      ASSIGN_OR_RETURN(const std::string name, token.GetString("id"));
      RETURN_IF_ERROR(
          AppendIds(processor, name, vocab_size, num_texts == 0 ? added.prefix : added.suffix));
    } else if (piece.IsObject() && piece.Has("Sequence")) {
      ++num_texts;
    } else {
      return piece.Unexpected("single",
                              "an array of {\"SpecialToken\": ..} and {\"Sequence\": ..}");
    }
  }
  if (num_texts != 1) {
    return UnsupportedInTokenizer(
        processor, "post_processor",
        absl::StrFormat("a TemplateProcessing that has the text %d times", num_texts));
  }
  return added;
}

}  // namespace

absl::StatusOr<PostProcessor> PostProcessor::Read(const JsonView& root, int64_t vocab_size) {
  ASSIGN_OR_RETURN(const auto processors,
                   TokenizerComponents(root, "post_processor", "processors"));
  PostProcessor all;
  for (const JsonView& processor : processors) {
    ASSIGN_OR_RETURN(const std::string type, processor.GetString("type"));
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") return UnsupportedInTokenizer(root, "post_processor", type);
    ASSIGN_OR_RETURN(const PostProcessor added, ReadTemplate(processor, vocab_size));
    all.prefix.insert(all.prefix.begin(), added.prefix.begin(), added.prefix.end());
    all.suffix.insert(all.suffix.end(), added.suffix.begin(), added.suffix.end());
  }
  return all;
}

}  // namespace polystrate
