// What templates render to, against transformers (tools/make_chat_template_golden.py), and what
// keeps a stranger's template within bounds.
#include "engine/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "absl/time/clock.h"
#include "engine/jinja/json_text.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

using jinja::Value;

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// A golden file's variables: those that ChatContext names go where they belong, `others` is what
// stays.
ChatContext ContextOf(const Value& variables) {
  ChatContext context;
  std::vector<std::pair<std::string, Value>> others;
  context.messages = Value();
  context.tools = Value();
  context.documents = Value();
  for (const auto& [key, value] : variables.dict().members()) {
    if (key.text() == "messages") {
      context.messages = value;
    } else if (key.text() == "tools") {
      context.tools = value;
    } else if (key.text() == "documents") {
      context.documents = value;
    } else if (key.text() == "add_generation_prompt") {
      context.add_generation_prompt = value.boolean();
    } else if (key.text() == "bos_token") {
      context.bos_token = value.IsString() ? value.text() : "";
    } else if (key.text() == "eos_token") {
      context.eos_token = value.IsString() ? value.text() : "";
    } else {
      others.emplace_back(key.text(), value);
    }
  }
  context.variables = Value::Object(std::move(others));
  context.now = absl::FromCivil(absl::CivilSecond(2024, 7, 26, 9, 5, 6), absl::LocalTimeZone());
  return context;
}

absl::StatusOr<std::string> Render(const std::string& text, const ChatContext& context = {},
                                   const jinja::RenderLimits& limits = {}) {
  const auto parsed = ChatTemplate::Parse(text);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(context, limits);
}

void CheckCase(const Value& golden, const ChatContext& context) {
  const std::string& text = golden.Find("template")->text();
  SCOPED_TRACE(text);
  const auto prompt = Render(text, context);
  if (const Value* expected = golden.Find("expected")) {
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, expected->text());
    return;
  }
  ASSERT_FALSE(prompt.ok()) << *prompt;
  EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
  if (const Value* message = golden.Find("message")) {
    EXPECT_EQ(prompt.status().message(), message->text());
  } else {
    EXPECT_TRUE(absl::StartsWith(prompt.status().message(), "chat template: line "))
        << prompt.status();
  }
}

TEST(ChatTemplateTest, RendersAsTransformersDoes) {
  const auto golden =
      jinja::ReadJson(ReadText(SourceFile("tests/golden/chat/templates.json")), "golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  const std::vector<Value>& cases = golden->Find("cases")->items();
  EXPECT_GE(cases.size(), 350u);
  for (const Value& one : cases) {
    const Value* variables = golden->Find("contexts")->Find(one.Find("context")->text());
    CheckCase(one, ContextOf(*variables));
  }
}

// Whatever a template does, it ends soon, within memory, and says which bound it met.
TEST(ChatTemplateTest, BoundsWhatATemplateDoes) {
  const std::string twice = "{% set ns = namespace(x='0123456789abcdef') %}";
  const std::pair<std::string, std::string> cases[] = {
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
      {twice + "{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "bytes"},
      {"{% set ns = namespace(x=[0]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
       "{% endfor %}",
       "line 1"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}",
       "nested deeper"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
       "{% endfor %}",
       "parts"},
      {"{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}", "nested deeper"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested deeper"},
      {"{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "bytes"},
      {"{{ 'x' * 99999999999 }}", "bytes"},
      {"{{ [1] * 99999999999 }}", "too often"},
      {"{{ ('x' * 9999999)|replace('x', 'y' * 9999999) }}", "bytes"},
      {"{{ '%999d' % 1 * 99999999 }}", "bytes"},
      {"{{ 'a'.center(99999999999) }}", "bytes"},
      {"{{ 'a'|indent(99999999999) }}", "bytes"},
      {"{{ 99999999 ** 99999999 }}", "64 bits"},
      {"{{ 9223372036854775807 + 1 }}", "64 bits"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "64 bits"},
      {"{{ -(-9223372036854775807 - 1) }}", "64 bits"},
      {"{{ range(99999999999) }}", "range()"},
  };
  for (const auto& [text, part] : cases) {
    SCOPED_TRACE(text);
    const absl::Time begin = absl::Now();
    EXPECT_TRUE(Fails(Render(text, {}, {.max_steps = 2'000'000}).status(),
                      absl::StatusCode::kInvalidArgument, part));
    EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  }
}

TEST(ChatTemplateTest, RefusesWhatIsNestedTooDeeplyToParse) {
  const auto times = [](int count, const std::string& text) {
    std::string result;
    for (int i = 0; i < count; ++i) result += text;
    return result;
  };
  for (const std::string& text :
       {"{{ " + times(9999, "(") + "1" + times(9999, ")") + " }}",
        "{{ " + times(9999, "[") + times(9999, "]") + " }}", "{{ " + times(9999, "not ") + "1 }}",
        "{{ " + times(9999, "-") + "1 }}", "{{ 1" + times(9999, " + 1") + " }}",
        "{{ a" + times(9999, ".b") + " }}", "{{ a" + times(9999, "|trim") + " }}",
        "{{ 1" + times(9999, " if 1 else 1") + " }}", times(9999, "{% if 1 %}"),
        "{% set " + times(9999, "(") + "a" + times(9999, ")") + " = 1 %}"}) {
    EXPECT_TRUE(Fails(Render(text).status(), absl::StatusCode::kInvalidArgument, "levels"))
        << text.substr(0, 60);
  }
  EXPECT_TRUE(Fails(Render(times(300'000, "{{ x }}")).status(), absl::StatusCode::kInvalidArgument,
                    "bytes"));
  EXPECT_TRUE(Fails(Render("\xff").status(), absl::StatusCode::kInvalidArgument, "UTF-8"));
}

TEST(ChatTemplateTest, SaysWhereAndWhat) {
  const std::pair<std::string, std::string> cases[] = {
      {"a\n{{ x }}\n{{ x.y }}", "chat template: line 3: 'x' is undefined"},
      {"{{ messages.x.y }}", "line 1: a value of type 'list' has no attribute 'x'"},
      {"\n{% set m = {} %}{{ m['content'] + 'a' }}",
       "line 2: a value of type 'dict' has no attribute 'content'"},
      {"{% if a %}\n", "line 1: expected 'endif', got the end of the template"},
      {"\n\n{{ x | nosuch }}", "line 3: no filter named 'nosuch'"},
      {"{% import 'x' as y %}", "line 1: no tag named 'import' here"},
      {"{{ 'a' | replace('b') }}", "line 1: filter 'replace': the argument 'new' is missing"},
      {"{% macro f(a) %}\n\n{{ a.b.c }}{% endmacro %}\n{{ f(messages) }}", "line 3: "},
  };
  for (const auto& [text, part] : cases) {
    EXPECT_TRUE(Fails(Render(text).status(), absl::StatusCode::kInvalidArgument, part));
  }
}

TEST(ChatTemplateTest, VariablesGoBeforeTheRest) {
  ChatContext context;
  context.bos_token = "<s>";
  context.variables = Value::Object({{"bos_token", Value::Text("X")}, {"deep", Value(true)}});
  EXPECT_EQ(Render("{{ bos_token }}{{ eos_token is defined }}{{ deep }}", context).value(),
            "XFalseTrue");
}

TEST(ChatTemplateTest, RendersALongConversationInMilliseconds) {
  std::vector<Value> messages;
  for (int i = 0; i < 1000; ++i) {
    messages.push_back(Value::Object(
        {{"role", Value::Text(i % 2 == 0 ? "user" : "assistant")},
         {"content", Value::Text(absl::StrCat("message ", i, std::string(200, 'x')))}}));
  }
  ChatContext context;
  context.messages = Value::List(std::move(messages));
  const auto parsed = ChatTemplate::Parse(
      "{%- for message in messages %}{%- if message.role == 'assistant' and '</think>' in "
      "message.content %}{% set content = message.content.split('</think>')[-1] %}{% else %}{% set "
      "content = message['content'] | trim %}{% endif %}{{- '<|im_start|>' + message.role + '\\n' "
      "+ content + '<|im_end|>\\n' }}{% endfor %}");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  absl::Duration best = absl::InfiniteDuration();
  for (int i = 0; i < 5; ++i) {
    const absl::Time begin = absl::Now();
    const auto prompt = parsed->Render(context);
    best = std::min(best, absl::Now() - begin);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_GT(prompt->size(), 200'000u);
  }
  RecordProperty("microseconds", static_cast<int>(absl::ToInt64Microseconds(best)));
  EXPECT_LT(best, absl::Milliseconds(500));  // some 5 ms; far less strict, for sanitizers
}

TEST(ReadJsonTest, KeepsOrderAndTypes) {
  const auto value = jinja::ReadJson(
      R"( {"b": 1, "a": [1.0, -2e3, "\u00e9\ud83d\ude00\n", true, null], "b": 2} )", "body");
  ASSERT_TRUE(value.ok()) << value.status();
  ChatContext context;
  context.variables = Value::Object({{"x", *value}});
  EXPECT_EQ(Render("{{ x }}", context).value(),
            "{'b': 2, 'a': [1.0, -2000.0, 'é😀\\n', True, None]}");
}

TEST(ReadJsonTest, RefusesWhatIsNoJson) {
  for (const std::string& text : {std::string(),
                                  std::string("{"),
                                  std::string("[1,]"),
                                  std::string("{'a': 1}"),
                                  std::string("{\"a\": 1,}"),
                                  std::string("01"),
                                  std::string("1."),
                                  std::string("1e"),
                                  std::string("-"),
                                  std::string("tru"),
                                  std::string("\"\\ud800\""),
                                  std::string("\"\\x\""),
                                  std::string("\"\n\""),
                                  std::string("\"a"),
                                  std::string("1 2"),
                                  std::string("1e999"),
                                  std::string("NaN"),
                                  std::string("\"\xff\""),
                                  std::string(100, '[') + std::string(100, ']'),
                                  std::string("\"\\u12"),
                                  std::string("\"\\")}) {
    EXPECT_TRUE(Fails(jinja::ReadJson(text, "body").status(), absl::StatusCode::kInvalidArgument,
                      "body: not valid JSON at byte"))
        << text;
  }
}

}  // namespace
}  // namespace polystrate
