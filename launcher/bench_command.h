// What the kinds of `polystrate bench` have in common. Each kind is a file of its own,
// launcher/bench_*.cc, and a row in launcher/bench_command.cc.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/svg_plot.h"

namespace polystrate {

absl::Status BenchAttention(const Arguments& arguments);
absl::Status BenchCapacity(const Arguments& arguments);
absl::Status BenchModel(const Arguments& arguments);
absl::Status BenchSharing(const Arguments& arguments);
absl::Status BenchServe(const Arguments& arguments);

// Where results go beside the table on standard output.
struct ReportFlags {
  std::optional<std::string> json;
  std::optional<std::string> svg;

  void AddTo(FlagSet* flags);
  // INVALID_ARGUMENT when a file that was named cannot be written: asked before minutes of work.
  absl::Status Check() const;
  // Writes the files that were asked for.
  absl::Status Write(const std::string& json_text, const SvgPlot& plot) const;
};

// INVALID_ARGUMENT with the flag's name when a file that was named cannot be written. Leaves no
// empty file behind: what is measured may be refused yet.
absl::Status CheckWritable(const char* flag, const std::optional<std::string>& path);

// INVALID_ARGUMENT with the flag, its value and the range unless low <= value <= high.
absl::Status CheckBenchRange(absl::string_view flag, int64_t value, int64_t low, int64_t high);

}  // namespace polystrate
