#include "engine/tokenizer_json.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "kernels/core/status.h"

namespace polystrate {

absl::Status TokenizerError(const JsonView& json, const std::string& what) {
  return absl::InvalidArgumentError(json.document() + ": " + what);
}

absl::Status UnsupportedInTokenizer(const JsonView& json, std::string_view where,
                                    std::string_view what) {
  return TokenizerError(json, absl::StrFormat("\"%s\": %s is not supported", where, what));
}

absl::StatusOr<std::vector<JsonView>> TokenizerComponents(const JsonView& root,
                                                          std::string_view key,
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

absl::StatusOr<std::string> LiteralPattern(const JsonView& component, std::string_view where) {
  ASSIGN_OR_RETURN(const std::string type, component.GetString("type"));
  ASSIGN_OR_RETURN(const JsonView pattern, component.GetObject("pattern"));
  if (!pattern.Has("String")) {
    return UnsupportedInTokenizer(component, where, type + " without a String");
  }
  ASSIGN_OR_RETURN(std::string text, pattern.GetString("String"));
  if (text.empty()) return UnsupportedInTokenizer(component, where, type + " of an empty String");
  return text;
}

absl::Status TextGrowth::Add(const JsonView& step, size_t from, size_t to) {
  // Llama 2's Prepend and Replace of a space by three bytes make 12.
  constexpr double kMaxFactor = 256;
  factor_ *= std::max(1.0, static_cast<double>(to) / static_cast<double>(from));
  if (factor_ <= kMaxFactor) return absl::OkStatus();
  return TokenizerError(
      step,
      absl::StrFormat("\"%s\" can make a text %.6g times longer; at most %g times is supported",
                      where_, factor_, kMaxFactor));
}

}  // namespace polystrate
