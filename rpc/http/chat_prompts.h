// ChatPrompts: makes the prompts of chats, by the templates that models come with.
#pragma once

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/chat_template.h"
#include "openengine_control.pb.h"

namespace polystrate {

// Any thread.
class ChatPrompts {
 public:
  // `body` is the JSON of a chat completion, of which ReadChatContext takes its part; without
  // `with_tools` the template sees none. The template is `chat_template` in the model's extra, with
  // `bos_token` and `eos_token` beside it. INVALID_ARGUMENT: a model without one, a template that
  // is not understood, a conversation that is none or that the template objects to.
  absl::StatusOr<std::string> Make(const std::string& body, bool with_tools,
                                   const openengine::v1::ModelInfo& model)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  absl::StatusOr<ChatTemplate> Parsed(const std::string& text) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::Mutex mutex_;
  std::map<std::string, ChatTemplate> parsed_ ABSL_GUARDED_BY(mutex_);  // by their text
};

}  // namespace polystrate
