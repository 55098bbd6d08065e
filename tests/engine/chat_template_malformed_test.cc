// Templates that are damaged at random: each still ends in text or INVALID_ARGUMENT.
// tests/fuzz/template_fuzz.cc goes on where this stops.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine/chat_messages.h"
#include "engine/chat_template.h"
#include "engine/utf8.h"
#include "tests/testing/mutate.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

constexpr char kBody[] = R"({"messages": [{"role": "system", "content": "é"},
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": null, "tool_calls":
        [{"id": "123456789", "function": {"name": "f", "arguments": "{\"x\": [1, 2.5]}"}}]},
    {"role": "tool", "content": "ok", "tool_call_id": "123456789"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "array"}}}}}],
    "chat_template_kwargs": {"n": 3, "s": "text", "l": [1, 2]}})";

constexpr jinja::RenderLimits kLimits = {
    .max_steps = 100'000, .max_live_bytes = 16 << 20, .max_output_bytes = 1 << 20};

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourceFile("tests/fuzz/seeds/template"))) {
    std::ostringstream text;
    text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
    seeds.push_back(text.str());
  }
  std::sort(seeds.begin(), seeds.end());
  return seeds;
}

TEST(ChatTemplateMalformedTest, EndsInTextOrAnError) {
  const std::vector<std::string> seeds = Seeds();
  ASSERT_GE(seeds.size(), 5u);
  std::mt19937 random(1);
  int num_parsed = 0;
  int num_rendered = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string text = Mutate(seeds[random() % seeds.size()], &random);
    if (i % 3 == 0) {  // a piece of another template within this one
      const std::string& other = seeds[random() % seeds.size()];
      text.insert(random() % text.size(), other.substr(random() % other.size(), random() % 60));
    }
    SCOPED_TRACE(text);
    const auto chat_template = ChatTemplate::Parse(text);
    if (!chat_template.ok()) {
      ASSERT_EQ(chat_template.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ++num_parsed;
    const auto context = ReadChatContext(kBody, *chat_template);
    ASSERT_TRUE(context.ok()) << context.status();
    const auto prompt = chat_template->Render(*context, kLimits);
    if (prompt.ok()) {
      ++num_rendered;
      ASSERT_EQ(FirstInvalidUtf8(*prompt), prompt->size());
    } else {
      ASSERT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
  // Damage that only ever met the parser would try little.
  EXPECT_GT(num_parsed, 150);
  EXPECT_GT(num_rendered, 50);
}

}  // namespace
}  // namespace polystrate
