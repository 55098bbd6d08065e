#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/engine.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/eval_encoding.h"
#include "launcher/eval_metrics.h"
#include "launcher/eval_task.h"
#include "launcher/flags.h"
#include "launcher/offline.h"

namespace polystrate {
namespace {

struct EvalFlags {
  EngineFlags engine;
  std::string task;
  std::string input;
  std::optional<int64_t> limit;
  bool json = false;
};

// What rank 0 keeps from the making of the requests until they are answered: one request for each
// continuation, in order, those of a question side by side.
struct Evaluation {
  EvalTask task = EvalTask::kLambada;
  std::vector<EvalQuestion> questions;
  int64_t num_truncated = 0;

  absl::StatusOr<std::vector<GenerationRequest>> MakeRequests(const EvalFlags& flags,
                                                              const Engine& engine);
  absl::StatusOr<GenerationRequest> MakeRequest(const EvalQuestion& question, size_t choice,
                                                const Tokenizer& tokenizer,
                                                const EncodingOptions& options);
  absl::Status Report(const EvalFlags& flags, const std::vector<OfflineOutput>& outputs,
                      const OfflineStats& stats) const;
  absl::StatusOr<std::vector<std::vector<ContinuationScore>>> Scores(
      const std::vector<OfflineOutput>& outputs) const;
};

absl::StatusOr<std::vector<GenerationRequest>> Evaluation::MakeRequests(const EvalFlags& flags,
                                                                        const Engine& engine) {
  if (engine.tokenizer() == nullptr) {
    return absl::InvalidArgumentError("the model directory has no tokenizer.json; eval needs one");
  }
  const Tokenizer& tokenizer = *engine.tokenizer();
  ASSIGN_OR_RETURN(questions, ReadQuestions(task, flags.input, flags.limit));
  EncodingOptions options{.max_model_len = engine.options().max_model_len};
  ASSIGN_OR_RETURN(options.prefix_token, ReadPrefixToken(flags.engine.model.model, tokenizer,
                                                         engine.options().eos_token_ids));
  std::vector<GenerationRequest> requests;
  for (const EvalQuestion& question : questions) {
    for (size_t i = 0; i < question.continuations.size(); ++i) {
      ASSIGN_OR_RETURN(requests.emplace_back(), MakeRequest(question, i, tokenizer, options));
    }
  }
  return requests;
}

absl::StatusOr<GenerationRequest> Evaluation::MakeRequest(const EvalQuestion& question,
                                                          size_t choice, const Tokenizer& tokenizer,
                                                          const EncodingOptions& options) {
  auto pair = EncodePair(tokenizer, question.context, question.continuations[choice], options);
  if (!pair.ok()) {
    return absl::Status(pair.status().code(),
                        absl::StrCat(question.where, ": ", pair.status().message()));
  }
  num_truncated += pair->truncated ? 1 : 0;
  GenerationRequest request;
  request.prompt = std::move(pair->tokens);
  request.max_tokens = 0;
  request.prompt_logprobs = true;
  request.prompt_logprob_start = pair->continuation_begin;
  return request;
}

absl::StatusOr<std::vector<std::vector<ContinuationScore>>> Evaluation::Scores(
    const std::vector<OfflineOutput>& outputs) const {
  std::vector<std::vector<ContinuationScore>> scores;
  auto output = outputs.begin();
  for (const EvalQuestion& question : questions) {
    std::vector<ContinuationScore>& of_question = scores.emplace_back();
    for (size_t i = 0; i < question.continuations.size(); ++i, ++output) {
      if (!output->status.ok()) {
        return absl::Status(output->status.code(),
                            absl::StrCat(question.where, ": ", output->status.message()));
      }
      ContinuationScore score{.greedy = true};
      for (const PromptScore& token : output->prompt_scores) {
        score.log_likelihood += static_cast<double>(token.logprob);
        score.greedy = score.greedy && token.rank == 1;
      }
      of_question.push_back(score);
    }
  }
  return scores;
}

// Perplexities of weak models have many digits.
std::string Number(double value) {
  return value < 1e5 ? absl::StrFormat("%.4f", value) : absl::StrFormat("%.4e", value);
}

void PrintTable(const std::string& task, size_t num_questions, const std::vector<Metric>& metrics) {
  std::printf("|Task   |     n|Metric    |     Value|    Stderr|\n");
  std::printf("|-------|-----:|----------|---------:|---------:|\n");
  for (const Metric& metric : metrics) {
    const std::string error =
        metric.standard_error.has_value() ? Number(*metric.standard_error) : "N/A";
    std::printf("|%-7s|%6d|%-10s|%10s|%10s|\n", task.c_str(), static_cast<int>(num_questions),
                metric.name.c_str(), Number(metric.value).c_str(), error.c_str());
  }
}

void PrintJson(const std::string& task, size_t num_questions, int64_t num_truncated,
               const std::vector<Metric>& metrics) {
  JsonWriter json;
  json.BeginObject().Key("task").String(task);
  json.Key("num_questions").Int(static_cast<int64_t>(num_questions));
  json.Key("num_truncated").Int(num_truncated).Key("metrics").BeginObject();
  for (const Metric& metric : metrics) {
    json.Key(metric.name).BeginObject().Key("value").Double(metric.value).Key("stderr");
    if (metric.standard_error.has_value()) {
      json.Double(*metric.standard_error);
    } else {
      json.Null();
    }
    json.EndObject();
  }
  json.EndObject().EndObject();
  std::printf("%s\n", json.text().c_str());
}

absl::Status Evaluation::Report(const EvalFlags& flags, const std::vector<OfflineOutput>& outputs,
                                const OfflineStats& stats) const {
  ASSIGN_OR_RETURN(const auto scores, Scores(outputs));
  const double seconds = absl::ToDoubleSeconds(stats.wall);
  std::fprintf(stderr, "%d questions, %d continuations, %d tokens in %.2f s (%.1f tokens/s)\n",
               static_cast<int>(questions.size()), static_cast<int>(outputs.size()),
               static_cast<int>(stats.prompt_tokens), seconds,
               seconds > 0 ? static_cast<double>(stats.prompt_tokens) / seconds : 0.0);
  if (num_truncated > 0) {
    std::fprintf(stderr, "warning: %d contexts were longer than the model's and lost their start\n",
                 static_cast<int>(num_truncated));
  }
  const std::vector<Metric> metrics = ComputeMetrics(task, questions, scores);
  if (flags.json) {
    PrintJson(Name(task), questions.size(), num_truncated, metrics);
  } else {
    PrintTable(Name(task), questions.size(), metrics);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EvalCommand(const Arguments& arguments) {
  EvalFlags flags;
  FlagSet set(
      "polystrate eval: how well a model predicts, as lm-evaluation-harness measures it, offline; "
      "alone or under mpirun -np TP*PP");
  flags.engine.AddTo(&set);
  set.Add("task", &flags.task, "lambada or choices (required)");
  set.Add("input", &flags.input,
          "JSONL file; lambada: {\"text\": TEXT}; choices: {\"query\": TEXT, \"choices\": [TEXT, "
          "..], \"gold\": INDEX} (required)");
  set.Add("limit", &flags.limit, "only the first questions, as many as this");
  set.Add("json", &flags.json, "print one JSON object instead of a table");
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (flags.input.empty()) return absl::InvalidArgumentError("--input is required");
  if (flags.limit.value_or(1) < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--limit is ", *flags.limit, "; it must be at least 1"));
  }
  Evaluation evaluation;
  ASSIGN_OR_RETURN(evaluation.task, ParseEvalTask(flags.task));

  OfflineJob job;
  job.requests = [&](const Engine& engine) { return evaluation.MakeRequests(flags, engine); };
  job.finish = [&](const auto&, const auto& outputs, const OfflineStats& stats) {
    return evaluation.Report(flags, outputs, stats);
  };
  return RunOffline(flags.engine, job);
}

}  // namespace polystrate
