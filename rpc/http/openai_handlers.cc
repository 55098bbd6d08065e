#include "rpc/http/openai_handlers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/json.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "rpc/http/answer_session.h"
#include "rpc/http/call_terms.h"

namespace polystrate {
namespace {

constexpr char kJson[] = "application/json";
constexpr char kEventStream[] = "text/event-stream";

absl::StatusOr<Json> ReadBody(const httplib::Request& request) {
  ASSIGN_OR_RETURN(Json body, Json::Parse(request.body, "the request"));
  if (!body.root().IsObject()) {
    return absl::InvalidArgumentError("the request's body must be a JSON object");
  }
  return body;
}

// Of the answer, as other servers of this API have it.
std::string AnswerId(AnswerKind kind, const std::string& request_id) {
  return absl::StrCat(kind == AnswerKind::kChat ? "chatcmpl-" : "cmpl-", request_id);
}

void SetIds(const std::string& request_id, std::vector<pb::GenerateRequest>* calls) {
  if (calls->size() == 1) return calls->front().set_request_id(request_id);
  for (size_t i = 0; i < calls->size(); ++i) {
    (*calls)[i].set_request_id(absl::StrCat(request_id, "-", i));
  }
}

// The answer is a stream whose end only the connection's end tells, unless its client knows chunks.
void SetStream(const httplib::Request& request, std::shared_ptr<AnswerSession> session,
               httplib::Response* response) {
  const auto provider = [session = std::move(session)](size_t, httplib::DataSink& sink) {
    bool there = true;
    session->Stream([&](const std::string& events) {
      there = sink.write(events.data(), events.size());
      return there;
    });
    if (there) sink.done();
    return there;
  };
  response->set_header("Cache-Control", "no-cache");
  response->set_header("X-Accel-Buffering", "no");  // what nginx asks for
  if (request.version == "HTTP/1.0") {
    response->set_content_provider(kEventStream, provider);
  } else {
    response->set_chunked_content_provider(kEventStream, provider);
  }
}

void WriteModel(const pb::ModelInfo& info, int64_t created, JsonWriter* json) {
  json->BeginObject().Key("id").String(info.model_id()).Key("object").String("model");
  json->Key("created").Int(created).Key("owned_by").String("polystrate");
  if (info.has_max_context_length()) json->Key("max_model_len").Int(info.max_context_length());
  json->EndObject();
}

}  // namespace

OpenAiHandlers::OpenAiHandlers(const std::shared_ptr<grpc::Channel>& backend,
                               const std::atomic<bool>* shutting_down)
    : inference_(pb::Inference::NewStub(backend)),
      models_(backend),
      shutting_down_(shutting_down),
      started_at_(absl::ToUnixSeconds(absl::Now())) {}

void OpenAiHandlers::Complete(const httplib::Request& request, httplib::Response& response) {
  const absl::Status status = TryComplete(request, response);
  if (!status.ok()) SetError(HttpError(status), &response);
}

absl::Status OpenAiHandlers::TryComplete(const httplib::Request& request,
                                         httplib::Response& response) {
  ASSIGN_OR_RETURN(const Json body, ReadBody(request));
  ASSIGN_OR_RETURN(OpenAiRequest asked, ReadCompletionRequest(body.root()));
  return Answer(AnswerKind::kCompletion, std::move(asked), request, response);
}

void OpenAiHandlers::Chat(const httplib::Request& request, httplib::Response& response) {
  const absl::Status status = TryChat(request, response);
  if (!status.ok()) SetError(HttpError(status), &response);
}

absl::Status OpenAiHandlers::TryChat(const httplib::Request& request, httplib::Response& response) {
  ASSIGN_OR_RETURN(const Json body, ReadBody(request));
  ASSIGN_OR_RETURN(OpenAiRequest asked, ReadChatRequest(body.root()));
  ASSIGN_OR_RETURN(const pb::ModelInfo model, models_.Info(asked.model));
  if (asked.model.empty()) asked.model = model.model_id();
  const bool with_tools = body.root().GetStringOr("tool_choice", "auto").value_or("one") != "none";
  ASSIGN_OR_RETURN(const std::string prompt, chat_prompts_.Make(request.body, with_tools, model));
  asked.calls.front().set_prompt(prompt);
  return Answer(AnswerKind::kChat, std::move(asked), request, response);
}

absl::Status OpenAiHandlers::Answer(AnswerKind kind, OpenAiRequest asked,
                                    const httplib::Request& request, httplib::Response& response) {
  ASSIGN_OR_RETURN(HeaderTerms terms, ReadCallTerms(request, asked.priority));
  response.set_header("X-Request-Id", terms.request_id);
  AnswerHead head{.kind = kind,
                  .id = AnswerId(kind, terms.request_id),
                  .created = absl::ToUnixSeconds(absl::Now()),
                  .model = asked.model};
  if (head.model.empty()) {
    ASSIGN_OR_RETURN(const pb::ModelInfo info, models_.Info(""));
    head.model = info.model_id();
  }
  SetIds(terms.request_id, &asked.calls);
  const bool stream = asked.stream;
  auto session = std::make_shared<AnswerSession>(
      *inference_, std::move(asked), std::move(head), std::move(terms.metadata),
      AnswerSession::Ends{[there = request.progress] { return there(0, 0); }, shutting_down_});
  if (stream) {
    RETURN_IF_ERROR(session->AwaitBegin());
    SetStream(request, std::move(session), &response);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string answer, session->ReadWhole());
  response.set_content(answer, kJson);
  return absl::OkStatus();
}

void OpenAiHandlers::ListModels(httplib::Response& response) {
  const absl::StatusOr<std::string> list = TryListModels();
  if (!list.ok()) return SetError(HttpError(list.status()), &response);
  response.set_content(*list, kJson);
}

absl::StatusOr<std::string> OpenAiHandlers::TryListModels() const {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, models_.Names());
  JsonWriter json;
  json.BeginObject().Key("object").String("list").Key("data").BeginArray();
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const pb::ModelInfo info, models_.Info(name));
    WriteModel(info, started_at_, &json);
  }
  json.EndArray().EndObject();
  return json.text();
}

void OpenAiHandlers::ShowModel(const std::string& model, httplib::Response& response) {
  const absl::StatusOr<pb::ModelInfo> info = models_.Info(model);
  if (!info.ok()) return SetError(HttpError(info.status()), &response);
  JsonWriter json;
  WriteModel(*info, started_at_, &json);
  response.set_content(json.text(), kJson);
}

void SetError(const HttpError& error, httplib::Response* response) {
  response->status = error.status;
  if (error.retry_after_seconds.has_value()) {
    response->set_header("Retry-After", absl::StrCat(*error.retry_after_seconds));
  }
  if (error.permanent) response->set_header("X-Should-Retry", "false");  // OpenAI's clients heed it
  response->set_content(error.ToJson(), kJson);
}

}  // namespace polystrate
