#include "engine/chat_template.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/jinja/interpreter.h"
#include "engine/jinja/parser.h"
#include "kernels/core/status.h"

namespace polystrate {

ChatTemplate::ChatTemplate(std::shared_ptr<const jinja::Template> parsed)
    : parsed_(std::move(parsed)) {}

absl::StatusOr<ChatTemplate> ChatTemplate::Parse(const std::string& text) {
  auto parsed = jinja::ParseTemplate(text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", parsed.status().message()));
  }
  return ChatTemplate(std::make_shared<const jinja::Template>(*std::move(parsed)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatContext& context,
                                                 const jinja::RenderLimits& limits) const {
  jinja::Interpreter interpreter(*parsed_, limits, context.now.value_or(absl::Now()));
  interpreter.Define("messages", context.messages);
  interpreter.Define("tools", context.tools);
  interpreter.Define("documents", context.documents);
  interpreter.Define("add_generation_prompt", jinja::Value(context.add_generation_prompt));
  if (!context.bos_token.empty()) {
    interpreter.Define("bos_token", jinja::Value::Text(context.bos_token));
  }
  if (!context.eos_token.empty()) {
    interpreter.Define("eos_token", jinja::Value::Text(context.eos_token));
  }
  if (context.variables.IsDict()) {
    for (const auto& [name, value] : context.variables.dict().members()) {
      if (name.IsString()) interpreter.Define(name.text(), value);
    }
  }
  auto prompt = interpreter.Run();
  if (prompt.ok() || interpreter.raised()) return prompt;
  return absl::InvalidArgumentError(absl::StrCat("chat template: ", prompt.status().message()));
}

bool ChatTemplate::TakesParts() const { return parsed_->loops_over_content; }

}  // namespace polystrate
