// Input: a chat template, and after a NUL byte the body of a chat completion request. Whatever they
// hold, the answer is text that is UTF-8 or INVALID_ARGUMENT, within the bounds of a render.

#include <string>
#include <string_view>

#include "engine/chat_messages.h"
#include "engine/chat_template.h"
#include "engine/jinja/json_text.h"
#include "engine/utf8.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr std::string_view kBody = R"({"messages": [
    {"role": "system", "content": "Be é brief."}, {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function",
        "function": {"name": "f", "arguments": "{\"x\": [1, 2.5, null, true]}"}}]},
    {"role": "tool", "content": "ok"}], "tools": [{"type": "function", "function": {"name": "f"}}],
    "chat_template_kwargs": {"n": 3, "s": "text", "d": {"k": [1, {"x": "y"}]}}})";

// Sanitizers make steps ten times slower and memory several times larger.
constexpr jinja::RenderLimits kLimits = {
    .max_steps = 200'000, .max_live_bytes = 32 << 20, .max_output_bytes = 1 << 20};

void Render(const ChatTemplate& chat_template, std::string_view body) {
  auto context = ReadChatContext(body, chat_template);
  if (!context.ok()) {
    CHECK(context.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  context->bos_token = "<s>";
  const auto prompt = chat_template.Render(*context, kLimits);
  if (prompt.ok()) {
    CHECK_EQ(FirstInvalidUtf8(*prompt), prompt->size());
    CHECK_LE(prompt->size(), static_cast<size_t>(kLimits.max_output_bytes));
  } else {
    CHECK(prompt.status().code() == absl::StatusCode::kInvalidArgument);
    const std::string_view message(prompt.status().message().data(),
                                   prompt.status().message().size());
    CHECK_EQ(FirstInvalidUtf8(message), message.size());
  }
}

}  // namespace
}  // namespace polystrate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const auto chat_template = ChatTemplate::Parse(std::string(input.substr(0, nul)));
  if (!chat_template.ok()) {
    CHECK(chat_template.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  Render(*chat_template, nul == std::string_view::npos ? kBody : input.substr(nul + 1));
  return 0;
}
