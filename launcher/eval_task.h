// The tasks of `polystrate eval`: JSONL lines to questions. A question is a context and what may
// follow it; a model's answer is how likely it finds each (docs/evaluation.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/json.h"

namespace polystrate {

enum class EvalTask : uint8_t {
  kLambada,  // {"text": TEXT}: the last word, given those before it (Paperno et al. 2016)
  kChoices,  // {"query": TEXT, "choices": [TEXT, ..], "gold": INDEX}: one of several answers
};

struct EvalQuestion {
  std::string where;  // "FILE:LINE", for messages
  std::string context;
  std::vector<std::string> continuations;  // with the space that parts them from the context
  int64_t gold = 0;                        // index of the right one
};

absl::StatusOr<EvalTask> ParseEvalTask(const std::string& name);
std::string Name(EvalTask task);

// INVALID_ARGUMENT names the key, what it is and what was expected.
absl::StatusOr<EvalQuestion> ParseQuestion(EvalTask task, const JsonView& line);

// The first `limit` questions of a file, or all. Errors name the file and the line.
absl::StatusOr<std::vector<EvalQuestion>> ReadQuestions(EvalTask task, const std::string& path,
                                                        std::optional<int64_t> limit);

}  // namespace polystrate
