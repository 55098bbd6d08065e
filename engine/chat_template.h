// ChatTemplate: a model's chat template, the Jinja text of its tokenizer_config.json or
// chat_template.jinja, that turns a conversation into a prompt.
//
// What is understood is what the templates on the Hugging Face hub use, and it renders as their
// `apply_chat_template` does (blocks trimmed and stripped, `break` and `continue`):
// docs/chat_templates.md lists it. A template is a stranger's program: it reaches no file, no
// network and no clock but `strftime_now`, and its steps, memory, output and nesting are bounded
// (RenderLimits).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/jinja/heap.h"
#include "engine/jinja/value.h"

namespace polystrate {

namespace jinja {
struct Template;
}

// What a template sees. Values come from jinja::ReadJson (engine/jinja/json_text.h), which keeps
// the order of keys and tells 1 from 1.0: both show in prompts.
struct ChatContext {
  // A list of objects with "role" and "content"; other keys as the template has it. See
  // engine/chat_messages.h for those that an OpenAI client sends.
  jinja::Value messages = jinja::Value::List({});
  jinja::Value tools = jinja::Value::None();      // a list of objects, or none
  jinja::Value documents = jinja::Value::None();  // a list of objects, or none
  // The texts of the model's tokens; empty: it has none, and the name is undefined.
  std::string bos_token;
  std::string eos_token;
  bool add_generation_prompt = true;
  // An object: more names for the template, such as `enable_thinking`. They go before all of the
  // above, as those of transformers' `chat_template_kwargs` do.
  jinja::Value variables = jinja::Value::Object({});
  std::optional<absl::Time> now;  // what strftime_now tells, in local time; nullopt: the clock's
};

// Immutable once parsed: any number of threads may render at once. Cheap to copy.
class ChatTemplate {
 public:
  // INVALID_ARGUMENT names the line and what is not understood there.
  static absl::StatusOr<ChatTemplate> Parse(const std::string& text);

  // The prompt. INVALID_ARGUMENT: what the template itself objects to (`raise_exception`, in its
  // own words), an operation that the values do not allow ("line 3: 'tools' is undefined"), or a
  // bound that was passed.
  absl::StatusOr<std::string> Render(const ChatContext& context,
                                     const jinja::RenderLimits& limits = {}) const;

  // Whether it goes over a message's content part by part: {"type": "text", "text": ...}. Others
  // take content for text.
  bool TakesParts() const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Template> parsed);
  std::shared_ptr<const jinja::Template> parsed_;
};

}  // namespace polystrate
