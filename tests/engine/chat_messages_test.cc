#include "engine/chat_messages.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

// The prompt of an OpenAI request's body.
absl::StatusOr<std::string> Prompt(const std::string& text, const std::string& body) {
  const auto chat_template = ChatTemplate::Parse(text);
  if (!chat_template.ok()) return chat_template.status();
  const auto context = ReadChatContext(body, *chat_template);
  if (!context.ok()) return context.status();
  return chat_template->Render(*context);
}

TEST(ChatMessagesTest, TakesWhatTheTemplateSees) {
  const std::string text =
      "{{ messages }} {{ tools }} {{ documents }} {{ add_generation_prompt }} {{ thinking_budget "
      "}}";
  EXPECT_EQ(Prompt(text, R"({"model": "m", "messages": [{"role": "user", "name": "N",
                             "content": "Hi"}], "tools": [{"b": 1, "a": 2.0}]})")
                .value(),
            "[{'role': 'user', 'name': 'N', 'content': 'Hi'}] [{'b': 1, 'a': 2.0}] None True ");
  EXPECT_EQ(Prompt(text, R"({"messages": [{"role": "user", "content": null}], "tools": [],
                             "documents": ["d"], "add_generation_prompt": false,
                             "chat_template_kwargs": {"thinking_budget": 7}})")
                .value(),
            "[{'role': 'user', 'content': None}] None ['d'] False 7");
}

TEST(ChatMessagesTest, PartsAreTextWhereTheTemplateTakesNone) {
  const std::string body = R"({"messages": [{"role": "user", "content": [
      {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]})";
  EXPECT_EQ(Prompt("{{ messages[0].content }}", body).value(), "a\nb");
  const std::string goes_over_parts =
      "{% for m in messages %}{% for p in m['content'] %}<{{ p.text }}>{% endfor %}{% endfor %}";
  EXPECT_EQ(Prompt(goes_over_parts, body).value(), "<a><b>");
}

TEST(ChatMessagesTest, ArgumentsBecomeObjects) {
  const std::string text = "{{ messages[0].tool_calls[0].function | tojson }}";
  EXPECT_EQ(Prompt(text, R"({"messages": [{"role": "assistant", "content": null, "tool_calls": [
      {"id": "1", "function": {"name": "f", "arguments": "{\"y\": 1, \"x\": [2]}"}}]}]})")
                .value(),
            R"({"name": "f", "arguments": {"y": 1, "x": [2]}})");
  EXPECT_EQ(Prompt(text, R"({"messages": [{"role": "assistant", "tool_calls": [
      {"function": {"name": "f", "arguments": "{broken"}}]}]})")
                .value(),
            R"({"name": "f", "arguments": "{broken"})");
}

TEST(ChatMessagesTest, ReasoningHasTheNamesThatTemplatesKnow) {
  const std::string text = "{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}";
  for (const char* name : {"reasoning_content", "reasoning", "thinking"}) {
    const std::string body = std::string(R"({"messages": [{"role": "assistant", ")") + name +
                             R"(": "hm", "content": "x"}]})";
    EXPECT_EQ(Prompt(text, body).value(), "hm|hm") << name;
  }
}

TEST(ChatMessagesTest, SaysWhatIsNotAsItMustBe) {
  const std::pair<std::string, std::string> cases[] = {
      {R"([])", "messages must be a list of at least one message"},
      {R"({"messages": []})", "messages must be a list"},
      {R"({"messages": "x"})", "messages must be a list"},
      {R"({"messages": ["x"]})", "messages[0] must be an object"},
      {R"({"messages": [{"content": "x"}]})", "messages[0].role must be a string"},
      {R"({"messages": [{"role": "user", "content": 1}]})", "messages[0].content must be"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})",
       "messages[0].content[0] must be"},
      {R"({"messages": [{"role": "user", "content": "x"}], "tools": 1})", "tools must be a list"},
      {R"({"messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": 1})",
       "chat_template_kwargs must be an object"},
      {R"({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": 1})",
       "add_generation_prompt must be true or false"},
      {R"({"messages": )", "the request: not valid JSON"},
  };
  for (const auto& [body, part] : cases) {
    EXPECT_TRUE(Fails(Prompt("x", body).status(), absl::StatusCode::kInvalidArgument, part));
  }
}

}  // namespace
}  // namespace polystrate
