// PreTokenizer: cuts normalised text into the words that BPE then encodes one by one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace polystrate {

// The expression of GPT-2, which ByteLevel uses: contractions, then runs of letters, of digits, of
// other characters, each with one space before it, then white space without the last of the run.
extern const char kGpt2Pattern[];

// What becomes of a match; every stretch between matches is a word in any case. The names are those
// of tokenizer.json.
enum class SplitBehavior : uint8_t {
  kIsolated,            // a word of its own
  kMergedWithPrevious,  // the end of the stretch before it, if there is one
  kMergedWithNext,      // the start of the stretch behind it, if there is one
};

// An expression that matches `text` and nothing else.
std::string LiteralExpression(std::string_view text);

// One regular expression, compiled by PCRE2's JIT. Const and thread-safe.
//
// \s, \p{L} and \p{N} mean what they mean to Oniguruma, which `tokenizers` uses: \s is Unicode's
// White_Space, letters and digits are those of Unicode 16.
class PreTokenizer {
 public:
  // What a search writes to. One thread at a time may use a Scratch; it serves any PreTokenizer.
  class Scratch {
   public:
    Scratch();
    ~Scratch();

   private:
    friend class PreTokenizer;
    struct State;
    std::unique_ptr<State> state_;
  };

  // INVALID_ARGUMENT, with the place, when `pattern` is no valid expression.
  static absl::StatusOr<PreTokenizer> Create(const std::string& pattern, SplitBehavior behavior);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  // Appends the words of `text` (valid UTF-8) to `words`, as views into it; together they are the
  // whole text. RESOURCE_EXHAUSTED when the expression backtracks without end on this text.
  absl::Status Split(std::string_view text, Scratch& scratch,
                     std::vector<std::string_view>& words) const;

 private:
  struct Code;
  PreTokenizer(std::unique_ptr<Code> code, SplitBehavior behavior);
  std::unique_ptr<Code> code_;
  SplitBehavior behavior_;
};

}  // namespace polystrate
