// What the readers of tokenizer.json's components share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/json.h"

namespace polystrate {

// INVALID_ARGUMENT in the document's name.
absl::Status TokenizerError(const JsonView& json, const std::string& what);
absl::Status UnsupportedInTokenizer(const JsonView& json, std::string_view where,
                                    std::string_view what);

// The parts of a component such as "decoder": itself, or the members of a "Sequence" under
// `list_key`; none for null. All are objects.
absl::StatusOr<std::vector<JsonView>> TokenizerComponents(const JsonView& root,
                                                          std::string_view key,
                                                          std::string_view list_key);

// The text of {"pattern": {"String": TEXT}}. `where` is the component that has it.
absl::StatusOr<std::string> LiteralPattern(const JsonView& component, std::string_view where);

// How many times longer a text can get by the steps of one component. A handful of replacements,
// each of a letter by a page, would take all memory there is.
class TextGrowth {
 public:
  explicit TextGrowth(std::string_view where) : where_(where) {}

  // A step that puts `to` bytes for `from` of them, which is not 0. INVALID_ARGUMENT when all steps
  // so far exceed what a tokenizer may have use for.
  absl::Status Add(const JsonView& step, size_t from, size_t to);

 private:
  const std::string_view where_;
  double factor_ = 1;
};

}  // namespace polystrate
