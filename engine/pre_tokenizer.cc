#include "engine/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr uint32_t kMatchLimit = 50'000'000;  // steps of backtracking in one match
constexpr size_t kMaxJitStack = size_t{8} << 20;

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

// Letters and digits that Unicode 15 and 16 added: Debian 12's PCRE2 has the tables of Unicode 14.
constexpr std::string_view kNewLetters =
    R"(\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65})"
    R"(\x{10d6f}-\x{10d85}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240}\x{11380}-\x{11389}\x{1138b})"
    R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02})"
    R"(\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa})"
    R"(\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})"
    R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739})"
    R"(\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view kNewDigits =
    R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59})"
    R"(\x{16130}-\x{16139}\x{16d70}-\x{16d79}\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3})"
    R"(\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

// PCRE2's words for an escape that it understands otherwise than Oniguruma, and the escape's
// length; length 0 for all others.
struct Escape {
  size_t length = 0;
  std::string members;  // as the inside of a class
};

Escape ReadEscape(std::string_view rest) {
  if (rest.starts_with("\\s")) return {2, "\\p{White_Space}"};
  if (rest.starts_with("\\S")) return {2, "\\P{White_Space}"};
  if (rest.starts_with("\\p{L}")) return {5, "\\p{L}" + std::string(kNewLetters)};
  if (rest.starts_with("\\p{N}")) return {5, "\\p{N}" + std::string(kNewDigits)};
  return {};
}

// `pattern` with those escapes replaced, inside classes and outside.
std::string ForPcre2(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  size_t class_begin = 0;  // where its first member would stand
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      const Escape escape = ReadEscape(pattern.substr(i));
      if (escape.length == 0) {
        result += pattern.substr(i, 2);
        ++i;
      } else {
        result += in_class ? escape.members : "[" + escape.members + "]";
        i += escape.length - 1;
      }
      continue;
    }
    result += c;
    if (!in_class && c == '[') {
      in_class = true;
      class_begin = i + 1 + (pattern.substr(i + 1).starts_with('^') ? 1 : 0);
    } else if (in_class && c == ']' && i != class_begin) {
      in_class = false;
    }
  }
  return result;
}

}  // namespace

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct PreTokenizer::Code {
  std::string pattern;
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

PreTokenizer::PreTokenizer(std::unique_ptr<Code> code, SplitBehavior behavior)
    : code_(std::move(code)), behavior_(behavior) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

std::string LiteralExpression(std::string_view text) {
  std::string expression;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !absl::ascii_isalnum(c)) expression += '\\';
    expression += c;
  }
  return expression;
}

absl::StatusOr<PreTokenizer> PreTokenizer::Create(const std::string& pattern,
                                                  SplitBehavior behavior) {
  auto code = std::make_unique<Code>();
  code->pattern = ForPcre2(pattern);
  int error = 0;
  size_t offset = 0;
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(code->pattern.data()), code->pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code->code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the regular expression \"%s\" is invalid at "
                        "byte %d: %s",
                        code->pattern, offset, ErrorText(error)));
  }
  // Without a JIT (another processor) PCRE2 interprets: slower, same result.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  return PreTokenizer(std::move(code), behavior);
}

struct PreTokenizer::Scratch::State {
  // One pair of offsets: groups inside the expression are not asked for.
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = nullptr;

  // True when there was only PCRE2's own 32 KiB so far, and there is a larger stack now. Few
  // expressions need one, and it takes longer to make than a short text to split.
  bool GrowStack() {
    if (stack != nullptr) return false;
    stack = pcre2_jit_stack_create(size_t{64} << 10, kMaxJitStack, nullptr);
    pcre2_jit_stack_assign(context, nullptr, stack);
    return stack != nullptr;
  }
};

PreTokenizer::Scratch::Scratch() : state_(std::make_unique<State>()) {
  CHECK(state_->data != nullptr && state_->context != nullptr);
  pcre2_set_match_limit(state_->context, kMatchLimit);
}

PreTokenizer::Scratch::~Scratch() {
  pcre2_jit_stack_free(state_->stack);
  pcre2_match_context_free(state_->context);
  pcre2_match_data_free(state_->data);
}

absl::Status PreTokenizer::Split(std::string_view text, Scratch& scratch,
                                 std::vector<std::string_view>& words) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const size_t* const match = pcre2_get_ovector_pointer(scratch.state_->data);
  size_t done = 0;    // [0, done) is cut into words
  size_t search = 0;  // where the next match may start
  // What the last word is, for matches that merge with a stretch between matches.
  enum { kNothing, kStretch, kMatch } last = kNothing;
  const auto add_stretch = [&](size_t end) {
    if (end == done) return;
    if (behavior_ == SplitBehavior::kMergedWithNext && last == kMatch) {
      words.back() = {words.back().data(), words.back().size() + end - done};
    } else {
      words.push_back(text.substr(done, end - done));
    }
    last = kStretch;
  };
  const auto add_match = [&](size_t begin, size_t end) {
    if (end == begin) return;
    if (behavior_ == SplitBehavior::kMergedWithPrevious && last == kStretch) {
      words.back() = {words.back().data(), words.back().size() + end - begin};
    } else {
      words.push_back(text.substr(begin, end - begin));
    }
    last = kMatch;
  };
  while (search < text.size()) {
    const int result = pcre2_match(code_->code, subject, text.size(), search, PCRE2_NO_UTF_CHECK,
                                   scratch.state_->data, scratch.state_->context);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && scratch.state_->GrowStack()) continue;
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "splitting the text into words failed at byte %d: %s", search, ErrorText(result)));
    }
    // \K in a lookaround, which PCRE2 itself refuses but where it is called as a subroutine.
    if (match[0] < done || match[1] < match[0]) {
      return absl::InvalidArgumentError(
          absl::StrFormat("splitting the text into words failed at byte %d: the expression \"%s\" "
                          "matches backwards",
                          search, code_->pattern));
    }
    add_stretch(match[0]);
    add_match(match[0], match[1]);
    done = match[1];
    search = done;
    if (match[1] == match[0]) {  // an empty match: the next one starts a character later
      do {
        ++search;
      } while (search < text.size() && (static_cast<unsigned char>(text[search]) & 0xc0) == 0x80);
    }
  }
  add_stretch(text.size());
  return absl::OkStatus();
}

}  // namespace polystrate
