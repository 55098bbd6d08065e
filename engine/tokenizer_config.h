// TokenizerConfig: what a model's directory says of the texts that chats are made of, for those who
// write prompts (rpc/ tells it). The tokenizer itself needs none of it.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace polystrate {

inline constexpr size_t kMaxChatTemplateBytes = 1 << 20;

struct TokenizerConfig {
  std::optional<std::string> chat_template;  // Jinja; kMaxChatTemplateBytes of UTF-8 at most
  std::optional<std::string> bos_token;      // as it is written in a text
  std::optional<std::string> eos_token;
};

// From chat_template.jinja, tokenizer_config.json and special_tokens_map.json, the first that says
// it; each of them may be missing. A model runs without, so what is wrong in them is no error: it
// is added to `problems`, and absent.
TokenizerConfig ReadTokenizerConfig(const std::string& model_dir,
                                    std::vector<std::string>* problems);

}  // namespace polystrate
