#include "launcher/eval_task.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "launcher/jsonl.h"

namespace polystrate {
namespace {

absl::StatusOr<EvalQuestion> ParseLambada(const JsonView& line) {
  ASSIGN_OR_RETURN(const std::string text, line.GetString("text"));
  EvalQuestion question;
  const size_t space = text.rfind(' ');
  const size_t word = space == std::string::npos ? 0 : space + 1;
  if (word == text.size()) {
    return line.Find("text")->Unexpected("text", "a text that ends with the word to predict");
  }
  question.context = text.substr(0, word == 0 ? 0 : space);
  question.continuations = {absl::StrCat(" ", text.substr(word))};
  return question;
}

absl::StatusOr<std::string> ParseQuery(const JsonView& line) {
  if (line.Has("query") && line.Has("context")) {
    return absl::InvalidArgumentError(
        absl::StrCat(line.document(), ": has \"query\" and \"context\", expected one of them"));
  }
  return line.GetString(line.Has("context") ? "context" : "query");
}

absl::StatusOr<EvalQuestion> ParseChoices(const JsonView& line) {
  EvalQuestion question;
  ASSIGN_OR_RETURN(question.context, ParseQuery(line));
  ASSIGN_OR_RETURN(const JsonView choices, line.GetArray("choices"));
  if (choices.size() < 2) return choices.Unexpected("choices", "two choices at least");
  for (const JsonView& element : choices.Elements()) {
    ASSIGN_OR_RETURN(const auto choice, element.AsString("choices"));
    if (choice.empty()) return element.Unexpected("choices", "texts that are not empty");
    question.continuations.push_back(absl::StrCat(" ", std::string(choice)));
  }
  ASSIGN_OR_RETURN(question.gold, line.GetInt("gold"));
  if (question.gold < 0 || question.gold >= choices.size()) {
    return line.Find("gold")->Unexpected(
        "gold", absl::StrCat("the index of a choice, in [0, ", choices.size(), ")"));
  }
  return question;
}

}  // namespace

absl::StatusOr<EvalTask> ParseEvalTask(const std::string& name) {
  for (const EvalTask task : {EvalTask::kLambada, EvalTask::kChoices}) {
    if (name == Name(task)) return task;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--task is \"", name, "\"; expected lambada or choices"));
}

std::string Name(EvalTask task) { return task == EvalTask::kLambada ? "lambada" : "choices"; }

absl::StatusOr<EvalQuestion> ParseQuestion(EvalTask task, const JsonView& line) {
  if (!line.IsObject()) {
    return absl::InvalidArgumentError(
        task == EvalTask::kLambada
            ? R"(expected {"text": TEXT})"
            : R"(expected {"query": TEXT, "choices": [TEXT, ..], "gold": INDEX})");
  }
  return task == EvalTask::kLambada ? ParseLambada(line) : ParseChoices(line);
}

absl::StatusOr<std::vector<EvalQuestion>> ReadQuestions(EvalTask task, const std::string& path,
                                                        std::optional<int64_t> limit) {
  std::vector<EvalQuestion> questions;
  RETURN_IF_ERROR(ForEachJsonLine(path, [&](const JsonView& line, const std::string& where) {
    if (limit.has_value() && static_cast<int64_t>(questions.size()) >= *limit) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(auto question, ParseQuestion(task, line));
    question.where = where;
    questions.push_back(std::move(question));
    return absl::OkStatus();
  }));
  if (questions.empty()) return absl::InvalidArgumentError(absl::StrCat(path, " has no questions"));
  return questions;
}

}  // namespace polystrate
