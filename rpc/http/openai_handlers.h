// OpenAiHandlers: what the paths under /v1 answer.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "httplib.h"
#include "openengine.grpc.pb.h"
#include "rpc/http/answer_format.h"
#include "rpc/http/chat_prompts.h"
#include "rpc/http/openai_error.h"
#include "rpc/http/openai_request.h"
#include "rpc/http/served_models.h"

namespace polystrate {

// Any thread; a call takes as long as its answer.
class OpenAiHandlers {
 public:
  // From the moment on when `shutting_down` is set, what runs is ended.
  OpenAiHandlers(const std::shared_ptr<grpc::Channel>& backend,
                 const std::atomic<bool>* shutting_down);

  void Complete(const httplib::Request& request, httplib::Response& response);
  void Chat(const httplib::Request& request, httplib::Response& response);
  void ListModels(httplib::Response& response);
  void ShowModel(const std::string& model, httplib::Response& response);

 private:
  absl::Status TryComplete(const httplib::Request& request, httplib::Response& response);
  absl::Status TryChat(const httplib::Request& request, httplib::Response& response);
  absl::Status Answer(AnswerKind kind, OpenAiRequest asked, const httplib::Request& request,
                      httplib::Response& response);
  absl::StatusOr<std::string> TryListModels() const;

  const std::unique_ptr<pb::Inference::Stub> inference_;
  const ServedModels models_;
  ChatPrompts chat_prompts_;
  const std::atomic<bool>* const shutting_down_;
  const int64_t started_at_;  // Unix seconds
};

// Answers with an error.
void SetError(const HttpError& error, httplib::Response* response);

}  // namespace polystrate
