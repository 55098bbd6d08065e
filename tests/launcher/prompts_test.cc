#include "launcher/prompts.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/testing/places.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

TEST(PromptsTest, TextGetsSpecialTokensAndTokenIdsDoNot) {
  const auto tokenizer =
      Tokenizer::ReadFile(SourceFile("tests/golden/tokenizer/spm_llama.json")).value();
  const std::vector<int32_t> text = {*tokenizer->TokenToId("<s>"),
                                     *tokenizer->TokenToId("\u2581the")};
  EXPECT_EQ(*EncodePrompt(tokenizer.get(), "the"), text);
  const TempDir dir;
  const std::string path = dir.File("prompts.jsonl");
  WriteFile(path, "{\"prompt\": \"the\"}\n{\"token_ids\": [5, 6]}\n{\"text\": \"\"}\n");
  EXPECT_EQ(*ReadPrompts(tokenizer.get(), path),
            (std::vector<std::vector<int32_t>>{text, {5, 6}, {text[0]}}));
}

}  // namespace
}  // namespace polystrate
