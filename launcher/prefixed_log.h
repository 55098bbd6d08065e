// PrefixedLog: what all processes of a cluster write, on standard error with who wrote it in front,
// and in a file for each of them. No reader and no full disk holds it up.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "launcher/log_sink.h"

namespace polystrate {

class PrefixedLog {
 public:
  PrefixedLog() { console_.OpenStandardError(); }

  // A writer "engine a" is [engine a] on standard error, or [engine a rank 1], and has the file
  // "engine-a.log" in `dir`, unless that is empty. Writers are numbered as they are added.
  absl::Status AddWriter(const std::string& name, const std::string& dir);

  void Write(size_t writer, std::optional<int> rank, absl::string_view line);
  // Of the launcher itself.
  void Say(absl::string_view line);
  // About a writer; goes to its file too.
  void Say(size_t writer, absl::string_view line);

  LogSink& console() { return console_; }

 private:
  struct Writer {
    std::string name;
    std::string path;
    LogSink file;
    bool warned = false;
  };
  void WriteToFile(Writer* writer, const std::string& line);

  LogSink console_;
  std::deque<Writer> writers_;
};

}  // namespace polystrate
