// From the body of an OpenAI chat completion request to what a chat template sees. The two differ
// in small things that templates rely on.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/chat_template.h"

namespace polystrate {

// Takes of `body`, the request's JSON as it came: "messages", "tools", "documents",
// "add_generation_prompt", "chat_template_kwargs". The rest of it, and the tokens' texts, are not
// looked at. INVALID_ARGUMENT says which of these is not as it must be.
//
// Messages keep all their keys in their order, but for:
//   - Content in parts becomes the texts with line ends between them, unless the template goes over
//     parts itself (ChatTemplate::TakesParts). Parts other than texts are refused.
//   - The arguments of tool calls, JSON in a string, become the object that they describe.
//   - What the model thought has the names that templates know: "reasoning_content", "thinking".
absl::StatusOr<ChatContext> ReadChatContext(std::string_view body,
                                            const ChatTemplate& chat_template);

}  // namespace polystrate
