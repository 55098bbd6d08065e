// What model directories of all ages say, and what is wrong in them.

#include "engine/tokenizer_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

class TokenizerConfigTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_.File(name), std::ios::binary) << text;
  }
  TokenizerConfig Read() {
    problems_.clear();
    return ReadTokenizerConfig(dir_.path(), &problems_);
  }
  void ExpectProblem(const std::string& part) {
    ASSERT_EQ(problems_.size(), 1u);
    EXPECT_NE(problems_[0].find(part), std::string::npos) << problems_[0];
  }

  TempDir dir_;
  std::vector<std::string> problems_;
};

TEST_F(TokenizerConfigTest, NothingIsNoProblem) {
  const TokenizerConfig config = Read();
  EXPECT_FALSE(config.chat_template.has_value() || config.bos_token.has_value() ||
               config.eos_token.has_value());
  Write("tokenizer_config.json", R"({"bos_token": null, "chat_template": null, "other": [1]})");
  EXPECT_FALSE(Read().bos_token.has_value());
  EXPECT_TRUE(problems_.empty());
}

TEST_F(TokenizerConfigTest, TheDemoModelHasItsToken) {
  const TokenizerConfig config = ReadTokenizerConfig(SourceFile("models/demo"), &problems_);
  EXPECT_EQ(config.bos_token, "<|endoftext|>");
  EXPECT_EQ(config.eos_token, "<|endoftext|>");
  EXPECT_FALSE(config.chat_template.has_value());
  EXPECT_TRUE(problems_.empty());
}

TEST_F(TokenizerConfigTest, EveryWayToSayIt) {
  Write("special_tokens_map.json",
        R"({"bos_token": {"content": "<b>", "lstrip": false}, "eos_token": "<e>"})");
  EXPECT_EQ(Read().bos_token, "<b>");
  EXPECT_EQ(Read().eos_token, "<e>");
  Write("tokenizer_config.json",
        R"({"eos_token": {"content": "</s>"}, "chat_template": "{{ \"caf\u00e9\" }}"})");
  EXPECT_EQ(Read().eos_token, "</s>");
  EXPECT_EQ(Read().bos_token, "<b>");
  EXPECT_EQ(Read().chat_template, "{{ \"caf\xc3\xa9\" }}");
  Write("tokenizer_config.json",
        R"({"chat_template": [{"name": "rag", "template": "r"},
                              {"name": "default", "template": "d"}]})");
  EXPECT_EQ(Read().chat_template, "d");
  Write("chat_template.jinja", "{% for m in messages %}\n");
  EXPECT_EQ(Read().chat_template, "{% for m in messages %}\n");
  Write("chat_template.jinja", std::string(kMaxChatTemplateBytes, 'x'));
  EXPECT_EQ(Read().chat_template->size(), kMaxChatTemplateBytes);
  EXPECT_TRUE(problems_.empty());
}

// The rest is told all the same.
TEST_F(TokenizerConfigTest, WhatIsWrongIsNamedAndAbsent) {
  const struct {
    const char* json;
    const char* problem;
  } cases[] = {
      {"{", "tokenizer_config.json"},
      {"[1]", "not a JSON object"},
      {R"({"bos_token": 5})", "\"bos_token\""},
      {R"({"eos_token": {"context": "x"}})", "\"content\""},
      {R"({"chat_template": {"default": "x"}})", "\"chat_template\""},
      {R"({"chat_template": ["x"]})", "\"chat_template\""},
      {R"({"chat_template": [{"name": "default", "template": 1}]})", "\"template\""},
  };
  Write("special_tokens_map.json", R"({"bos_token": "<b>"})");
  for (const auto& test : cases) {
    Write("tokenizer_config.json", test.json);
    const TokenizerConfig config = Read();
    ExpectProblem(test.problem);
    EXPECT_FALSE(config.chat_template.has_value());
    EXPECT_EQ(config.bos_token, "<b>");
  }
  Write("tokenizer_config.json",
        R"({"chat_template": ")" + std::string(kMaxChatTemplateBytes + 1, 'x') + "\"}");
  EXPECT_FALSE(Read().chat_template.has_value());
  ExpectProblem("1048577 bytes; it may have 1048576");
  Write("tokenizer_config.json", R"({"bos_token": ")" + std::string(5000, 'x') + "\"}");
  Read();
  ExpectProblem("5000 bytes");

  Write("tokenizer_config.json", R"({"chat_template": "t"})");
  Write("chat_template.jinja", "a\xff");
  EXPECT_EQ(Read().chat_template, "t");
  ExpectProblem("byte 1 is no UTF-8");
  Write("chat_template.jinja", std::string(kMaxChatTemplateBytes + 1, 'x'));
  EXPECT_EQ(Read().chat_template, "t");
  ExpectProblem("chat_template.jinja");
}

TEST_F(TokenizerConfigTest, AFolderIsNoTemplate) {
  std::filesystem::create_directory(dir_.File("chat_template.jinja"));
  EXPECT_FALSE(Read().chat_template.has_value());
  ExpectProblem("cannot be read");
}

}  // namespace
}  // namespace polystrate
