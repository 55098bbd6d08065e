#include "rpc/coordinator/engine_file.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status.h"
#include "rpc/connector.h"

namespace polystrate {

absl::StatusOr<std::vector<std::string>> EngineFile::Read() {
  ASSIGN_OR_RETURN(const std::string text, file_.Read());
  std::vector<std::string> targets;
  int line_number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const std::string target(line);
    if (!CheckTarget(target).ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_.path(), ":", line_number, ": \"", target.substr(0, 64),
                       "\" is no engine; a line takes HOST:PORT, as 10.0.0.1:50051"));
    }
    if (std::find(targets.begin(), targets.end(), target) == targets.end()) {
      targets.push_back(target);
    }
  }
  return targets;
}

}  // namespace polystrate
