#include "rpc/http/openai_request.h"

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "rpc/http/field_reader.h"
#include "rpc/request_extra.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxPrompts = 2048;
constexpr int64_t kMaxChoices = 16384;  // of all prompts
constexpr size_t kMaxCopiedBytes = 64 << 20;
constexpr int64_t kMaxLogprobs = 20;
constexpr int64_t kMaxTokenId = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxCount = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxExact = int64_t{1} << 53;
constexpr int64_t kDefaultMaxTokens = 16;  // of a completion

// Fields that change the answer and that nothing here would heed.
constexpr const char* kNotSupported[] = {
    "suffix",
    "use_beam_search",
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "allowed_token_ids",
    "bad_words",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "prompt_embeds",
    "functions",
    "audio",
};

// Whether a client that fills in every field with its default would write this.
bool MeansNothing(const JsonView& value) {
  if (value.IsString()) return value.AsString("")->empty();
  if (value.IsBool()) return !*value.AsBool("");
  if (value.IsArray()) return value.size() == 0;
  if (value.IsObject()) return value.Keys().empty();
  return value.IsNull();
}

void RefuseUnsupported(FieldReader& in) {
  for (const char* key : kNotSupported) {
    const auto value = in.Any(key);
    if (value.has_value() && !MeansNothing(*value)) in.Fail(key, "is not supported");
  }
  const auto bias = in.Object("logit_bias");
  if (bias.has_value() && !bias->Keys().empty()) in.Fail("logit_bias", "is not supported");
  const auto format = in.Object("response_format");
  if (!format.has_value()) return;
  const auto type = format->GetStringOr("type", "text");
  if (!type.ok()) return in.Fail("response_format", type.status());
  if (*type != "text") in.Fail("response_format", "of another type than text is not supported");
}

void ReadSampling(FieldReader& in, pb::SamplingParams* sampling) {
  if (const auto value = in.Double("temperature")) sampling->set_temperature(*value);
  if (const auto value = in.Double("top_p")) sampling->set_top_p(*value);
  if (const auto value = in.Int("top_k", -1, kMaxCount)) {
    sampling->set_top_k(static_cast<int32_t>(*value));
  }
  if (const auto value = in.Double("min_p")) sampling->set_min_p(*value);
  if (const auto value = in.Double("presence_penalty")) sampling->set_presence_penalty(*value);
  if (const auto value = in.Double("frequency_penalty")) sampling->set_frequency_penalty(*value);
  if (const auto value = in.Double("repetition_penalty")) sampling->set_repetition_penalty(*value);
  if (const auto value = in.Int("seed", -kMaxExact, kMaxExact)) {
    sampling->set_seed(static_cast<uint64_t>(*value));
  }
}

void ReadStops(FieldReader& in, pb::StoppingOptions* stopping) {
  const auto stop = in.Any("stop");
  if (stop.has_value() && stop->IsArray()) {
    for (const JsonView& text : stop->Elements()) {
      if (!text.IsString()) return in.Fail("stop", text.Unexpected("stop", "strings"));
      stopping->add_conditions()->set_stop_text(std::string(*text.AsString("stop")));
    }
  } else if (stop.has_value()) {
    const auto text = in.String("stop");
    if (text.has_value()) stopping->add_conditions()->set_stop_text(*text);
  }
  const auto ids = in.Array("stop_token_ids");
  if (!ids.has_value()) return;
  for (const JsonView& element : ids->Elements()) {
    const auto id = element.AsInt("stop_token_ids");
    if (!id.ok()) return in.Fail("stop_token_ids", id.status());
    if (*id < 0 || *id > kMaxTokenId)
      return in.Fail("stop_token_ids", "has an id below 0 or too large");
    stopping->add_conditions()->set_stop_token_id(static_cast<uint32_t>(*id));
  }
}

void ReadStopping(FieldReader& in, pb::StoppingOptions* stopping) {
  if (const auto value = in.Int("min_tokens", 0, kMaxCount)) {
    stopping->set_min_tokens(static_cast<uint32_t>(*value));
  }
  if (const auto value = in.Bool("ignore_eos")) stopping->set_ignore_eos(*value);
  if (const auto value = in.Bool("include_stop_str_in_output")) {
    stopping->set_include_stop_in_output(*value);
  }
  ReadStops(in, stopping);
}

void ReadStream(FieldReader& in, OpenAiRequest* request) {
  request->stream = in.Bool("stream").value_or(false);
  const auto options = in.Object("stream_options");
  if (!options.has_value()) return;
  if (!request->stream) return in.Fail("stream_options", "is only for stream = true");
  const auto include_usage = options->GetBoolOr("include_usage", false);
  if (!include_usage.ok()) return in.Fail("stream_options", include_usage.status());
  request->include_usage = *include_usage;
}

// What both kinds of request have, into `request` and `call`.
void ReadCommon(FieldReader& in, OpenAiRequest* request, pb::GenerateRequest* call) {
  request->model = in.String("model").value_or("");
  ReadStream(in, request);
  RefuseUnsupported(in);
  request->num_choices = in.Int("n", 1, kMaxChoices).value_or(1);
  if (const auto value = in.Int("best_of", 1, kMaxChoices)) {
    if (*value != request->num_choices) in.Fail("best_of", "other than n is not supported");
  }
  if (const auto value = in.Int("priority", std::numeric_limits<int32_t>::min(), kMaxCount)) {
    request->priority = static_cast<int32_t>(*value);
  }
  call->set_model(request->model);
  ReadSampling(in, call->mutable_sampling());
  if (request->num_choices > 1) {
    call->mutable_sampling()->set_num_sequences(static_cast<uint32_t>(request->num_choices));
  }
  ReadStopping(in, call->mutable_stopping());
  if (in.Bool("add_special_tokens").value_or(true) == false) {
    (*call->mutable_extra()->mutable_fields())[kAddSpecialTokensKey].set_bool_value(false);
  }
}

void AskForLogprobs(int64_t top_n, OpenAiRequest* request, pb::GenerateRequest* call) {
  request->logprobs = true;
  request->top_logprobs = top_n;
  call->mutable_response()->set_return_output_logprobs(true);
  call->mutable_response()->mutable_output_candidates()->set_top_n(static_cast<uint32_t>(top_n));
}

absl::Status PromptError(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("prompt ", what,
                   "; it must be a string, a list of strings, a list of token ids or a list of "
                   "lists of token ids"));
}

absl::Status ReadIds(const JsonView& list, pb::TokenIds* ids) {
  if (list.size() == 0) return PromptError("has a list without token ids");
  ids->mutable_ids()->Reserve(static_cast<int>(list.size()));
  for (int64_t i = 0; i < list.size(); ++i) {
    const JsonView element = list.at(i);
    if (!element.IsNumber()) return PromptError("mixes token ids with something else");
    ASSIGN_OR_RETURN(const int64_t id, element.AsInt("prompt"));
    if (id < 0 || id > kMaxTokenId) {
      return absl::InvalidArgumentError(absl::StrCat("prompt: ", id, " is no token id"));
    }
    ids->add_ids(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

// A copy of `common` for each prompt.
absl::StatusOr<std::vector<pb::GenerateRequest>> ReadPrompts(const JsonView& prompt,
                                                             const pb::GenerateRequest& common) {
  std::vector<pb::GenerateRequest> calls;
  if (prompt.IsString()) {
    calls.push_back(common);
    calls.back().set_prompt(std::string(*prompt.AsString("prompt")));
    return calls;
  }
  if (!prompt.IsArray()) return PromptError("is none of these");
  if (prompt.size() == 0) return PromptError("is an empty list");
  if (prompt.at(0).IsNumber()) {
    calls.push_back(common);
    RETURN_IF_ERROR(ReadIds(prompt, calls.back().mutable_token_ids()));
    return calls;
  }
  if (prompt.size() > kMaxPrompts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", prompt.size(), " prompts; at most ", kMaxPrompts, " go at once"));
  }
  if (common.ByteSizeLong() * static_cast<size_t>(prompt.size()) > kMaxCopiedBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt has ", prompt.size(), " prompts, too many for so long a stop or stop_token_ids"));
  }
  const bool texts = prompt.at(0).IsString();
  for (const JsonView& element : prompt.Elements()) {
    calls.push_back(common);
    if (texts ? !element.IsString() : !element.IsArray()) return PromptError("mixes kinds");
    if (texts) {
      calls.back().set_prompt(std::string(*element.AsString("prompt")));
    } else {
      RETURN_IF_ERROR(ReadIds(element, calls.back().mutable_token_ids()));
    }
  }
  return calls;
}

// An echo is made of the text that was sent, unless it is to be scored or there is none.
void AskForEcho(pb::GenerateRequest* call, bool logprobs, uint32_t top_n) {
  if (!logprobs && !call->has_token_ids() && call->stopping().max_tokens() > 0) return;
  call->mutable_response()->set_return_prompt_logprobs(true);
  if (logprobs) call->mutable_response()->mutable_prompt_candidates()->set_top_n(top_n);
}

}  // namespace

absl::StatusOr<OpenAiRequest> ReadCompletionRequest(const JsonView& body) {
  FieldReader in(body);
  OpenAiRequest request;
  pb::GenerateRequest common;
  ReadCommon(in, &request, &common);
  request.echo = in.Bool("echo").value_or(false);
  const int64_t max_tokens = in.Int("max_tokens", 0, kMaxCount).value_or(kDefaultMaxTokens);
  common.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(max_tokens));
  if (max_tokens == 0 && !request.echo) {
    in.Fail("max_tokens", "is 0; it must be at least 1, but with echo, where 0 scores the prompt");
  }
  const auto logprobs = in.Int("logprobs", 0, kMaxLogprobs);
  if (logprobs.has_value()) AskForLogprobs(*logprobs, &request, &common);

  const auto prompt = in.Any("prompt");
  if (!prompt.has_value()) in.Fail("prompt", "is missing");
  RETURN_IF_ERROR(in.status());
  absl::StatusOr<std::vector<pb::GenerateRequest>> calls = ReadPrompts(*prompt, common);
  if (!calls.ok()) in.Fail("prompt", calls.status());
  RETURN_IF_ERROR(in.status());
  request.calls = *std::move(calls);
  const auto num_prompts = static_cast<int64_t>(request.calls.size());
  if (num_prompts * request.num_choices > kMaxChoices) {
    in.Fail("n", absl::StrCat("is ", request.num_choices, " for ", num_prompts,
                              " prompts; together that may be at most ", kMaxChoices));
    return in.status();
  }
  for (pb::GenerateRequest& call : request.calls) {
    if (request.echo)
      AskForEcho(&call, request.logprobs, static_cast<uint32_t>(logprobs.value_or(0)));
  }
  return request;
}

absl::StatusOr<OpenAiRequest> ReadChatRequest(const JsonView& body) {
  FieldReader in(body);
  OpenAiRequest request;
  pb::GenerateRequest& call = request.calls.emplace_back();
  ReadCommon(in, &request, &call);
  call.set_prompt("");
  (*call.mutable_extra()->mutable_fields())[kAddSpecialTokensKey].set_bool_value(
      in.Bool("add_special_tokens").value_or(false));
  const auto newer = in.Int("max_completion_tokens", 1, kMaxCount);
  const auto older = in.Int("max_tokens", 1, kMaxCount);
  if (newer.has_value() || older.has_value()) {
    call.mutable_stopping()->set_max_tokens(
        static_cast<uint32_t>(newer.has_value() ? *newer : *older));
  }
  const auto top_logprobs = in.Int("top_logprobs", 0, kMaxLogprobs);
  if (in.Bool("logprobs").value_or(false)) {
    AskForLogprobs(top_logprobs.value_or(0), &request, &call);
  } else if (top_logprobs.value_or(0) > 0) {
    in.Fail("top_logprobs", "is only for logprobs = true");
  }
  if (in.Bool("echo").value_or(false)) in.Fail("echo", "is not supported");
  RETURN_IF_ERROR(in.status());
  return request;
}

}  // namespace polystrate
