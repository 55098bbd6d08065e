#include <cmath>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/offline.h"
#include "launcher/prompts.h"

namespace polystrate {
namespace {

absl::StatusOr<std::vector<GenerationRequest>> MakeRequests(const std::string& input,
                                                            const Tokenizer* tokenizer) {
  ASSIGN_OR_RETURN(auto prompts, ReadPrompts(tokenizer, input));
  std::vector<GenerationRequest> requests;
  for (auto& prompt : prompts) {
    GenerationRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = 0;
    request.prompt_logprobs = true;
    requests.push_back(std::move(request));
  }
  return requests;
}

void PrintLine(const std::vector<int32_t>& token_ids, const std::vector<PromptScore>& scores) {
  JsonWriter json;
  json.BeginObject().Key("token_ids").BeginArray();
  for (int32_t id : token_ids) json.Int(id);
  json.EndArray().Key("logprobs").BeginArray();
  for (const PromptScore& score : scores)
    json.Float(score.logprob);  // the first is NaN, written as null
  json.EndArray().EndObject();
  std::printf("%s\n", json.text().c_str());
}

void PrintLoss(const std::vector<OfflineOutput>& outputs, const OfflineStats& stats) {
  double sum = 0;
  int64_t count = 0;
  for (const OfflineOutput& output : outputs) {
    for (size_t i = 1; i < output.prompt_scores.size(); ++i) {
      sum -= output.prompt_scores[i].logprob;
      ++count;
    }
  }
  const double seconds = absl::ToDoubleSeconds(stats.wall);
  std::fprintf(stderr, "%d tokens scored in %.2f s (%.1f tokens/s)", static_cast<int>(count),
               seconds, seconds > 0 ? stats.prompt_tokens / seconds : 0.0);
  if (count > 0) {
    std::fprintf(stderr, ", mean loss %.5f nats a token, perplexity %.4f", sum / count,
                 std::exp(sum / count));
  }
  std::fprintf(stderr, "\n");
}

}  // namespace

absl::Status ScoreCommand(const Arguments& arguments) {
  EngineFlags engine;
  std::string input;
  FlagSet set(
      "polystrate score: log-probability of each token of a text given those before it, offline; "
      "alone or under mpirun -np TP*PP");
  engine.AddTo(&set);
  set.Add("input", &input, "JSONL file of {\"text\": TEXT} or {\"token_ids\": [..]} (required)");
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (input.empty()) return absl::InvalidArgumentError("--input is required");

  OfflineJob job;
  job.requests = [&](const Engine& made) { return MakeRequests(input, made.tokenizer()); };
  job.finish = [](const auto& requests, const auto& outputs, const OfflineStats& stats) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      RETURN_IF_ERROR(outputs[i].status);
      PrintLine(requests[i].prompt, outputs[i].prompt_scores);
    }
    PrintLoss(outputs, stats);
    return absl::OkStatus();
  };
  return RunOffline(engine, job);
}

}  // namespace polystrate
