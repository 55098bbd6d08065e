#include "launcher/output_lines.h"

#include <cctype>
#include <utility>

namespace polystrate {
namespace {

enum class Match { kNo, kPartly, kWhole };
struct Tag {
  Match match = Match::kNo;
  size_t size = 0;
  int rank = -1;
  char stream = ' ';
};

// "[1,23]<stderr>:", at the beginning of `text`.
Tag MatchTag(absl::string_view text) {
  Tag tag;
  size_t at = 0;
  const auto end = [&] { return at == text.size(); };
  const auto digits = [&](int* value) {
    const size_t begin = at;
    *value = 0;
    while (!end() && std::isdigit(static_cast<unsigned char>(text[at])) != 0 && at - begin < 9) {
      *value = *value * 10 + (text[at++] - '0');
    }
    return at > begin;
  };
  const auto word = [&](absl::string_view expected) {
    const absl::string_view there = text.substr(at, expected.size());
    if (there != expected.substr(0, there.size())) return false;
    at += there.size();
    return there.size() == expected.size();
  };
  const auto so_far = [&] { return Tag{end() ? Match::kPartly : Match::kNo}; };
  int job = 0;
  if (!word("[") || !digits(&job) || !word(",") || !digits(&tag.rank) || !word("]<std")) {
    return so_far();
  }
  if (end()) return so_far();
  tag.stream = text[at];
  const absl::string_view rest = tag.stream == 'o'   ? "out>:"
                                 : tag.stream == 'e' ? "err>:"
                                                     : "diag>:";
  if (!word(rest)) return so_far();
  tag.match = Match::kWhole;
  tag.size = at;
  return tag;
}

}  // namespace

void OutputLines::Add(absl::string_view bytes) {
  if (!tagged_) return Append(bytes);
  std::string joined;
  absl::string_view rest = bytes;
  if (!held_.empty()) {
    joined = std::exchange(held_, "");
    joined.append(bytes.data(), bytes.size());
    rest = joined;
  }
  size_t from = 0;
  while (true) {
    const size_t bracket = rest.find('[', from);
    if (bracket == absl::string_view::npos) break;
    const Tag tag = MatchTag(rest.substr(bracket));
    if (tag.match == Match::kNo) {
      from = bracket + 1;
      continue;
    }
    Append(rest.substr(0, bracket));
    if (tag.match == Match::kPartly) {
      held_ = std::string(rest.substr(bracket));
      return;
    }
    source_ = {tag.rank, tag.stream};
    rest.remove_prefix(bracket + tag.size);
    from = 0;
  }
  Append(rest);
}

void OutputLines::Append(absl::string_view text) {
  while (!text.empty()) {
    std::string& line = lines_[source_];
    const size_t line_break = text.find('\n');
    const size_t size = std::min({line_break, text.size(), kMaxLogLine - line.size()});
    line.append(text.data(), size);
    text.remove_prefix(size);
    if (size == line_break) {
      text.remove_prefix(1);
      Emit(source_);
      source_ = {-1, ' '};  // mpirun's own, unless a tag follows
    } else if (line.size() == kMaxLogLine) {
      Emit(source_);
    }
  }
}

void OutputLines::Emit(const Source& source) {
  std::string line = std::exchange(lines_[source], "");
  if (!line.empty() && line.back() == '\r') line.pop_back();
  on_line_(source.first < 0 ? std::nullopt : std::optional<int>(source.first), line);
}

void OutputLines::End() {
  Append(std::exchange(held_, ""));
  for (const auto& [source, line] : std::map<Source, std::string>(lines_)) {
    if (!line.empty()) Emit(source);
  }
}

}  // namespace polystrate
