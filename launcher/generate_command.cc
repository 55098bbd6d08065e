#include <cstdio>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/offline.h"
#include "launcher/prompts.h"
#include "launcher/sampling_flags.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

struct GenerateFlags {
  EngineFlags engine;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_ids;
  std::optional<std::string> prompts;
  bool json = false;
  std::optional<int64_t> logprobs;
};

absl::StatusOr<std::vector<std::vector<int32_t>>> MakePrompts(const GenerateFlags& flags,
                                                              const Tokenizer* tokenizer) {
  if (flags.prompts.has_value()) return ReadPrompts(tokenizer, *flags.prompts);
  std::vector<int32_t> prompt;
  if (flags.prompt_ids.has_value()) {
    ASSIGN_OR_RETURN(prompt, ParseIntList("prompt_ids", *flags.prompt_ids));
  } else {
    ASSIGN_OR_RETURN(prompt, EncodePrompt(tokenizer, *flags.prompt));
  }
  return std::vector<std::vector<int32_t>>{std::move(prompt)};
}

absl::Status CheckOnePromptFlag(const GenerateFlags& flags) {
  const int given =
      flags.prompt.has_value() + flags.prompt_ids.has_value() + flags.prompts.has_value();
  if (given == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "give one of --prompt, --prompt_ids and --prompts, not ", given == 0 ? "none" : "several"));
}

absl::StatusOr<std::vector<GenerationRequest>> MakeRequests(const GenerateFlags& flags,
                                                            const Tokenizer* tokenizer) {
  GenerationRequest request;
  RETURN_IF_ERROR(flags.sampling.Fill(&request));
  request.output_logprobs = flags.logprobs.has_value();
  request.output_candidates = flags.logprobs.value_or(0);
  ASSIGN_OR_RETURN(auto prompts, MakePrompts(flags, tokenizer));
  std::vector<GenerationRequest> requests;
  for (auto& prompt : prompts) {
    requests.push_back(request);
    requests.back().prompt = std::move(prompt);
  }
  return requests;
}

void WriteCandidates(const OfflineOutput& output, JsonWriter* json) {
  json->Key("ranks").BeginArray();
  for (const int32_t rank : output.ranks) json->Int(rank);
  json->EndArray().Key("candidates").BeginArray();
  for (const auto& candidates : output.candidates) {
    json->BeginArray();
    for (const TokenLogProb& candidate : candidates) {
      json->BeginObject().Key("token_id").Int(candidate.token_id);
      json->Key("logprob").Float(candidate.logprob).EndObject();
    }
    json->EndArray();
  }
  json->EndArray();
}

void PrintJson(const GenerationRequest& request, const OfflineOutput& output, int32_t index) {
  JsonWriter json;
  json.BeginObject().Key("prompt_token_ids").BeginArray();
  for (int32_t id : request.prompt) json.Int(id);
  json.EndArray().Key("token_ids").BeginArray();
  for (int32_t id : output.token_ids) json.Int(id);
  json.EndArray().Key("logprobs").BeginArray();
  for (float logprob : output.logprobs) json.Float(logprob);
  json.EndArray();
  if (request.output_logprobs) WriteCandidates(output, &json);
  if (request.num_sequences > 1) json.Key("output_index").Int(index);
  json.Key("text").String(output.text);
  json.Key("finish_reason").String(output.reason == FinishReason::kStop ? "stop" : "length");
  json.EndObject();
  std::printf("%s\n", json.text().c_str());
}

// Text may hold any byte, zero too.
void Print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void PrintText(const OfflineOutput& output, bool has_tokenizer) {
  if (has_tokenizer) {
    Print(output.text + "\n");
    return;
  }
  for (size_t i = 0; i < output.token_ids.size(); ++i) {
    std::printf("%s%d", i == 0 ? "" : " ", output.token_ids[i]);
  }
  std::printf("\n");
}

// Every output of the request.
void PrintOutputs(const GenerationRequest& request, const OfflineOutput& outputs, bool json,
                  bool has_tokenizer) {
  for (int32_t i = 0; i < request.num_sequences; ++i) {
    const OfflineOutput& output = i == 0 ? outputs : outputs.others[i - 1];
    if (json) {
      PrintJson(request, output, i);
      continue;
    }
    if (request.num_sequences > 1) std::printf("[%d] ", i);
    PrintText(output, has_tokenizer);
  }
}

void PrintStats(const OfflineStats& stats) {
  const double seconds = absl::ToDoubleSeconds(stats.wall);
  std::fprintf(stderr, "%d prompt tokens, %d generated in %.2f s (%.1f tokens/s)",
               static_cast<int>(stats.prompt_tokens), static_cast<int>(stats.generated_tokens),
               seconds, seconds > 0 ? stats.generated_tokens / seconds : 0.0);
  if (stats.generated_tokens > 0) {
    std::fprintf(stderr, ", first token after %.1f ms",
                 absl::ToDoubleMilliseconds(stats.first_token));
  }
  std::fprintf(stderr, "\n");
}

}  // namespace

absl::Status GenerateCommand(const Arguments& arguments) {
  GenerateFlags flags;
  FlagSet set("polystrate generate: text from prompts, offline; alone or under mpirun -np TP*PP");
  flags.engine.AddTo(&set);
  flags.sampling.AddTo(&set);
  set.Add("prompt", &flags.prompt, "text to continue");
  set.Add("prompt_ids", &flags.prompt_ids, "token ids to continue, as 1,2,3");
  set.Add("prompts", &flags.prompts, "JSONL file of {\"prompt\": TEXT} or {\"prompt_ids\": [..]}");
  set.Add("json", &flags.json, "print one JSON object per output");
  set.Add("logprobs", &flags.logprobs,
          "with --json: rank of each token, and so many of the likeliest, 0 to 20");
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckOnePromptFlag(flags));
  if (flags.logprobs.has_value() && !flags.json) {
    return absl::InvalidArgumentError("--logprobs is printed with --json alone");
  }

  bool has_tokenizer = false;
  const bool stream =
      !flags.json && !flags.prompts.has_value() && flags.sampling.n.value_or(1) == 1;
  OfflineJob job;
  job.requests = [&](const Engine& engine) {
    has_tokenizer = engine.tokenizer() != nullptr;
    return MakeRequests(flags, engine.tokenizer());
  };
  job.on_token = [&](size_t, const TokenInfo& token) {
    if (!stream || !has_tokenizer) return;
    Print(token.text);
    std::fflush(stdout);
  };
  job.finish = [&](const auto& requests, const auto& outputs, const OfflineStats& stats) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      RETURN_IF_ERROR(outputs[i].status);
      if (stream && has_tokenizer) {
        std::printf("\n");
      } else {
        PrintOutputs(requests[i], outputs[i], flags.json, has_tokenizer);
      }
    }
    PrintStats(stats);
    return absl::OkStatus();
  };
  return RunOffline(flags.engine, job);
}

}  // namespace polystrate
