#include "engine/metaspace.h"

#include <algorithm>

#include "engine/normalizer.h"
#include "engine/tokenizer_json.h"
#include "engine/utf8.h"
#include "kernels/core/status.h"

namespace polystrate {

absl::StatusOr<Metaspace> Metaspace::Read(const JsonView& component, std::string_view where) {
  Metaspace metaspace;
  ASSIGN_OR_RETURN(metaspace.mark, component.GetString("replacement"));
  if (metaspace.mark.empty() || DecodeUtf8(metaspace.mark).num_bytes != metaspace.mark.size()) {
    return component.Find("replacement")->Unexpected("replacement", "one character");
  }
  ASSIGN_OR_RETURN(const std::string scheme, component.GetStringOr("prepend_scheme", "always"));
  if (scheme == "first") {
    metaspace.prepend = kFirst;
  } else if (scheme == "never") {
    metaspace.prepend = kNever;
  } else if (scheme != "always") {
    return UnsupportedInTokenizer(component, where, "Metaspace with prepend_scheme " + scheme);
  }
  // The older field, which the scheme has replaced; `tokenizers` refuses this contradiction too.
  ASSIGN_OR_RETURN(const bool add_prefix_space, component.GetBoolOr("add_prefix_space", true));
  if (!add_prefix_space && metaspace.prepend != kNever) {
    return TokenizerError(component,
                          "Metaspace has \"add_prefix_space\" false, expected "
                          "\"prepend_scheme\" to be \"never\" then");
  }
  ASSIGN_OR_RETURN(metaspace.split, component.GetBoolOr("split", true));
  return metaspace;
}

std::string Metaspace::Mark(std::string_view piece, bool starts_text) const {
  std::string marked = ReplaceAll(piece, " ", mark);
  const bool wanted = prepend == kAlways || (prepend == kFirst && starts_text);
  if (wanted && !marked.starts_with(mark)) marked.insert(0, mark);
  return marked;
}

void Metaspace::Split(std::string_view marked, std::vector<std::string_view>& words) const {
  if (!split) {
    words.push_back(marked);
    return;
  }
  size_t begin = 0;
  while (begin < marked.size()) {
    // Where the word begins with its mark, the next one is sought behind that.
    const size_t from = begin + (marked.substr(begin).starts_with(mark) ? mark.size() : 0);
    const size_t end = std::min(marked.find(mark, from), marked.size());
    words.push_back(marked.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace polystrate
