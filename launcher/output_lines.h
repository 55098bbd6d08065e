// OutputLines: what a process writes, cut into lines that are attributed to ranks.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace polystrate {

inline constexpr size_t kMaxLogLine = 3000;  // bytes; a longer line is broken

class OutputLines {
 public:
  // Without a line break. `rank` is that of mpirun --tag-output, which marks each piece of a rank's
  // output, also in the middle of a line; mpirun's own words have none.
  using OnLine = std::function<void(std::optional<int> rank, absl::string_view line)>;
  OutputLines(bool tagged, OnLine on_line) : tagged_(tagged), on_line_(std::move(on_line)) {}

  void Add(absl::string_view bytes);
  // The process has ended: what has no line break yet is a line.
  void End();

 private:
  using Source = std::pair<int, char>;  // rank, or -1, and the letter of stdout or stderr
  void Append(absl::string_view text);
  void Emit(const Source& source);

  const bool tagged_;
  const OnLine on_line_;
  Source source_{-1, ' '};               // of what comes next
  std::map<Source, std::string> lines_;  // not ended yet
  std::string held_;                     // the beginning of what may become a tag
};

}  // namespace polystrate
