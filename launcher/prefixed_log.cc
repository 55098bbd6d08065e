#include "launcher/prefixed_log.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/status.h"

namespace polystrate {

absl::Status PrefixedLog::AddWriter(const std::string& name, const std::string& dir) {
  Writer& writer = writers_.emplace_back();
  writer.name = name;
  if (dir.empty()) return absl::OkStatus();
  std::string file = name;
  std::replace(file.begin(), file.end(), ' ', '-');
  writer.path = absl::StrCat(dir, "/", file, ".log");
  return writer.file.OpenFile(writer.path);
}

void PrefixedLog::WriteToFile(Writer* writer, const std::string& line) {
  if (writer->path.empty()) return;
  writer->file.Write(absl::StrCat(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ ", absl::Now(), absl::UTCTimeZone()), line));
  if (writer->file.error() == 0 || writer->warned) return;
  writer->warned = true;
  Say(absl::StrCat("cannot write ", writer->path, ": ", strerror(writer->file.error()),
                   "; lines are missing there until it can be written again"));
}

void PrefixedLog::Write(size_t writer, std::optional<int> rank, absl::string_view line) {
  Writer& by = writers_[writer];
  const std::string who = rank.has_value() ? absl::StrCat(" rank ", *rank) : "";
  console_.Write(absl::StrCat("[", by.name, who, "] ", line));
  WriteToFile(&by, absl::StrCat(who.empty() ? "" : who.substr(1) + ": ", line));
}

void PrefixedLog::Say(absl::string_view line) { console_.Write(absl::StrCat("launch: ", line)); }

void PrefixedLog::Say(size_t writer, absl::string_view line) {
  Writer& about = writers_[writer];
  Say(absl::StrCat(about.name, " ", line));
  WriteToFile(&about, absl::StrCat("launch: ", line));
}

}  // namespace polystrate
