// Input: tokenizer.json, and after a NUL byte a text. Whatever they hold, the answer is a tokenizer
// or INVALID_ARGUMENT; and of a tokenizer, ids within its vocabulary and text that is UTF-8.

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "engine/detokenizer.h"
#include "engine/json.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "kernels/core/check.h"
#include "tests/fuzz/json_mutator.h"

namespace polystrate {
namespace {

constexpr int32_t kMaxIdsTried = 400;

void DecodeBothWays(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                    bool skip_special) {
  const std::string text = tokenizer.Decode(ids, skip_special);
  CHECK_EQ(FirstInvalidUtf8(text), text.size());
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = detokenizer.Append(id);
    CHECK_EQ(FirstInvalidUtf8(piece), piece.size());
    streamed += piece;
  }
  streamed += detokenizer.Flush();
  CHECK_EQ(streamed, text);
}

void Encode(const Tokenizer& tokenizer, std::string_view text) {
  for (const AddSpecialTokens add : {AddSpecialTokens::kNo, AddSpecialTokens::kYes}) {
    const auto ids = tokenizer.Encode(text, add);
    if (!ids.ok()) {
      CHECK(ids.status().code() == absl::StatusCode::kInvalidArgument);
      continue;
    }
    CHECK_EQ(FirstInvalidUtf8(text), text.size());
    for (const int32_t id : *ids) CHECK(id >= 0 && id < tokenizer.vocab_size());
    for (const bool skip_special : {false, true}) DecodeBothWays(tokenizer, *ids, skip_special);
  }
}

}  // namespace
}  // namespace polystrate

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return polystrate::MutateJsonInput(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polystrate;
  const JsonInput input = JsonInput::From(data, size);
  const auto json = Json::Parse(input.json, "tokenizer.json");
  if (!json.ok()) return 0;
  const auto tokenizer = Tokenizer::FromJson(*json);
  if (!tokenizer.ok()) {
    CHECK(tokenizer.status().code() == absl::StatusCode::kInvalidArgument);
    return 0;
  }
  std::vector<int32_t> ids;  // each once, and some that are none
  for (int32_t id = -1; id <= (*tokenizer)->vocab_size() && id < kMaxIdsTried; ++id) {
    ids.push_back(id);
  }
  DecodeBothWays(**tokenizer, ids, false);
  constexpr std::array<std::string_view, 3> kTexts = {
      "", "The [lr] cafe\xcc\x81 <s>123\r\n  isn't",
      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\xe2\x96\x81"};
  for (const std::string_view text : kTexts) Encode(**tokenizer, text);
  Encode(**tokenizer, input.rest);
  return 0;
}
