#include "engine/json_edit.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

struct Span {
  size_t begin = 0;
  size_t end = 0;
};

// Finds where the members of an object lie. It does not look into their values.
class MemberScanner {
 public:
  struct Member {
    std::string_view key;  // as written, without the quotes
    Span value;
  };

  MemberScanner(std::string_view text, std::string_view document)
      : text_(text), document_(document) {}

  absl::Status Scan() {
    RETURN_IF_ERROR(Expect('{'));
    const size_t after_brace = at_;
    SkipSpace();
    indent_ = text_.substr(after_brace, at_ - after_brace);
    do {
      RETURN_IF_ERROR(ScanMember());
    } while (Consume(','));
    return Expect('}');
  }

  const std::vector<Member>& members() const { return members_; }
  std::string_view indent() const { return indent_; }  // before the first key

 private:
  absl::Status ScanMember() {
    RETURN_IF_ERROR(Expect('"'));
    const size_t key_begin = at_;
    SkipString();
    const std::string_view key = text_.substr(key_begin, at_ - key_begin - 1);
    RETURN_IF_ERROR(Expect(':'));
    SkipSpace();
    const size_t begin = at_;
    size_t end = at_;
    for (int depth = 0; at_ < text_.size(); end = at_) {
      const char c = text_[at_];
      if (depth == 0 && (c == ',' || c == '}')) break;
      ++at_;
      if (c == '"') SkipString();
      depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    }
    while (end > begin && IsSpace(text_[end - 1])) --end;
    members_.push_back({key, {begin, end}});
    return end > begin ? absl::OkStatus() : Unexpected("a value");
  }

  static bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
  void SkipSpace() {
    while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
  }
  // From behind the opening quote to behind the closing one.
  void SkipString() {
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c == '"') return;
      if (c == '\\' && at_ < text_.size()) ++at_;
    }
  }
  bool Consume(char c) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  absl::Status Expect(char c) {
    return Consume(c) ? absl::OkStatus() : Unexpected(std::string({'\'', c, '\''}));
  }
  absl::Status Unexpected(const std::string& expected) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(document_), ": expected ", expected,
                                                   " at byte ", at_,
                                                   "; only plain JSON can be edited"));
  }

  const std::string_view text_;
  const std::string_view document_;
  size_t at_ = 0;
  std::string_view indent_;
  std::vector<Member> members_;
};

}  // namespace

absl::StatusOr<std::string> SetJsonMembers(std::string_view text, std::string_view document,
                                           const std::vector<JsonMember>& members) {
  MemberScanner scanner(text, document);
  RETURN_IF_ERROR(scanner.Scan());
  std::string edited;
  size_t copied = 0;
  const auto copy_up_to = [&](size_t end) {
    edited += text.substr(copied, end - copied);
    copied = end;
  };
  std::vector<bool> found(members.size());
  for (const MemberScanner::Member& old : scanner.members()) {
    for (size_t i = 0; i < members.size(); ++i) {
      if (old.key != members[i].key) continue;
      copy_up_to(old.value.begin);
      edited += members[i].value;
      copied = old.value.end;
      found[i] = true;
    }
  }
  copy_up_to(scanner.members().back().value.end);
  const std::string indent(scanner.indent().empty() ? " " : scanner.indent());
  for (size_t i = 0; i < members.size(); ++i) {
    if (found[i] || !members[i].add) continue;
    absl::StrAppend(&edited, ",", indent, "\"", members[i].key, "\": ", members[i].value);
  }
  copy_up_to(text.size());
  return edited;
}

}  // namespace polystrate
