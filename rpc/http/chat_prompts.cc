#include "rpc/http/chat_prompts.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/chat_messages.h"
#include "kernels/core/status.h"
#include "rpc/http/openai_error.h"

namespace polystrate {
namespace {

// Models are few; what changes its template all the time is not served better by keeping more.
constexpr size_t kMaxParsed = 16;

std::string TextIn(const google::protobuf::Struct& extra, const char* key) {
  const auto found = extra.fields().find(key);
  return found == extra.fields().end() ? "" : found->second.string_value();
}

// ReadChatContext's messages begin with the field that they are about.
absl::Status NameField(const absl::Status& status) {
  for (const char* field :
       {"messages", "tools", "documents", "add_generation_prompt", "chat_template_kwargs"}) {
    if (absl::StartsWith(status.message(), field)) return WithParam(status, field);
  }
  return status;
}

}  // namespace

absl::StatusOr<std::string> ChatPrompts::Make(const std::string& body, bool with_tools,
                                              const openengine::v1::ModelInfo& model) {
  const std::string text = TextIn(model.extra(), "chat_template");
  if (text.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model \"", model.model_id(),
                     "\" has no chat template; send a prompt to /v1/completions instead"));
  }
  ASSIGN_OR_RETURN(const ChatTemplate chat_template, Parsed(text));
  absl::StatusOr<ChatContext> context = ReadChatContext(body, chat_template);
  if (!context.ok()) return NameField(context.status());
  if (!with_tools) context->tools = jinja::Value::None();
  context->bos_token = TextIn(model.extra(), "bos_token");
  context->eos_token = TextIn(model.extra(), "eos_token");
  return chat_template.Render(*context);
}

absl::StatusOr<ChatTemplate> ChatPrompts::Parsed(const std::string& text) {
  {
    absl::MutexLock lock(&mutex_);
    if (const auto found = parsed_.find(text); found != parsed_.end()) return found->second;
  }
  ASSIGN_OR_RETURN(const ChatTemplate parsed, ChatTemplate::Parse(text));
  absl::MutexLock lock(&mutex_);
  if (parsed_.size() >= kMaxParsed) parsed_.clear();
  parsed_.emplace(text, parsed);
  return parsed;
}

}  // namespace polystrate
