#include "engine/chat_messages.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/jinja/json_text.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using jinja::Value;
using Members = std::vector<std::pair<std::string, Value>>;

absl::Status Unexpected(const std::string& what, const char* expected) {
  return absl::InvalidArgumentError(absl::StrFormat("%s must be %s", what, expected));
}

Members MembersOf(const Value& object) {
  Members members;
  for (const auto& [key, value] : object.dict().members()) members.emplace_back(key.text(), value);
  return members;
}

// `name` is the content's in messages.
absl::StatusOr<Value> TextOfParts(const Value& parts, const std::string& name, bool takes_parts) {
  std::string text;
  for (size_t i = 0; i < parts.items().size(); ++i) {
    const Value& part = parts.items()[i];
    const Value* kind = part.Find("type");
    const Value* words = part.Find("text");
    if (kind == nullptr || !kind->IsString() || kind->text() != "text" || words == nullptr ||
        !words->IsString()) {
      return Unexpected(absl::StrFormat("%s[%d]", name, i),
                        "{\"type\": \"text\", \"text\": ...}: the model reads text only");
    }
    if (i > 0) text += '\n';
    text += words->text();
  }
  return takes_parts ? parts : Value::Text(std::move(text));
}

// A tool call whose arguments are an object and not its JSON. Arguments that are no such JSON stay.
Value WithArguments(const Value& call) {
  const Value* function = call.Find("function");
  const Value* arguments = function == nullptr ? nullptr : function->Find("arguments");
  if (arguments == nullptr || !arguments->IsString()) return call;
  const auto read = jinja::ReadJson(arguments->text(), "arguments");
  if (!read.ok() || !read->IsDict()) return call;
  Members function_members = MembersOf(*function);
  for (auto& [key, value] : function_members) {
    if (key == "arguments") value = *read;
  }
  Members members = MembersOf(call);
  for (auto& [key, value] : members) {
    if (key == "function") value = Value::Object(function_members);
  }
  return Value::Object(std::move(members));
}

// The first of the names that clients give to what the model thought.
const Value* FindReasoning(const Value& message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* value = message.Find(name);
    if (value != nullptr && !value->IsNone()) return value;
  }
  return nullptr;
}

absl::StatusOr<Value> PrepareMessage(const Value& message, const std::string& name,
                                     bool takes_parts) {
  if (!message.IsDict()) return Unexpected(name, "an object");
  const Value* role = message.Find("role");
  if (role == nullptr || !role->IsString()) return Unexpected(name + ".role", "a string");
  Members members = MembersOf(message);
  for (auto& [key, value] : members) {
    if (key == "content" && value.IsList()) {
      ASSIGN_OR_RETURN(value, TextOfParts(value, name + ".content", takes_parts));
    } else if (key == "content" && !value.IsString() && !value.IsNone()) {
      return Unexpected(name + ".content", "a string, null or a list of parts");
    } else if (key == "tool_calls" && value.IsList()) {
      std::vector<Value> calls;
      for (const Value& call : value.items()) calls.push_back(WithArguments(call));
      value = Value::List(std::move(calls));
    }
  }
  if (const Value* reasoning = FindReasoning(message)) {
    if (message.Find("thinking") == nullptr) members.emplace_back("thinking", *reasoning);
    members.emplace_back("reasoning_content", *reasoning);
  }
  return Value::Object(std::move(members));
}

// A member that is a list or not there at all.
absl::StatusOr<Value> ListOrNone(const Value& body, const char* name) {
  const Value* list = body.Find(name);
  if (list == nullptr || list->IsNone()) return Value::None();
  if (!list->IsList()) return Unexpected(name, "a list");
  return list->items().empty() ? Value::None() : *list;
}

}  // namespace

absl::StatusOr<ChatContext> ReadChatContext(std::string_view body,
                                            const ChatTemplate& chat_template) {
  ASSIGN_OR_RETURN(const Value request, jinja::ReadJson(body, "the request"));
  const Value* messages = request.Find("messages");
  if (messages == nullptr || !messages->IsList() || messages->items().empty()) {
    return Unexpected("messages", "a list of at least one message");
  }
  ChatContext context;
  std::vector<Value> prepared;
  for (size_t i = 0; i < messages->items().size(); ++i) {
    ASSIGN_OR_RETURN(Value message,
                     PrepareMessage(messages->items()[i], absl::StrFormat("messages[%d]", i),
                                    chat_template.TakesParts()));
    prepared.push_back(std::move(message));
  }
  context.messages = Value::List(std::move(prepared));
  ASSIGN_OR_RETURN(context.tools, ListOrNone(request, "tools"));
  ASSIGN_OR_RETURN(context.documents, ListOrNone(request, "documents"));
  const Value* opens = request.Find("add_generation_prompt");
  if (opens != nullptr && !opens->IsNone()) {
    if (!opens->IsBool()) return Unexpected("add_generation_prompt", "true or false");
    context.add_generation_prompt = opens->boolean();
  }
  const Value* variables = request.Find("chat_template_kwargs");
  if (variables != nullptr && !variables->IsNone()) {
    if (!variables->IsDict()) return Unexpected("chat_template_kwargs", "an object");
    context.variables = *variables;
  }
  return context;
}

}  // namespace polystrate
