#include "launcher/bench_command.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

struct Kind {
  const char* name;
  const char* summary;
  absl::Status (*run)(const Arguments& arguments);
};

constexpr Kind kKinds[] = {
    {"capacity", "KV bytes and sequences that fit, for the MLKV paper's models", BenchCapacity},
    {"sharing", "decode speed of the MLKV paper's models, alone and under one KV pool",
     BenchSharing},
    {"model", "decode and prefill of well-known shapes", BenchModel},
    {"attention", "the attention operator alone, decode and prefill", BenchAttention},
    {"serve", "a load on a running engine: throughput, latency, goodput", BenchServe},
};

std::string Usage() {
  std::string text =
      "polystrate bench: the papers' measurements with random weights, and a load on an engine\n\n"
      "usage: polystrate bench KIND [--flag value ...]    (polystrate bench KIND --help)\n\n";
  for (const Kind& kind : kKinds) {
    absl::StrAppendFormat(&text, "  %-10s %s\n", kind.name, kind.summary);
  }
  return text;
}

}  // namespace

absl::Status CheckWritable(const char* flag, const std::optional<std::string>& path) {
  if (!path.has_value()) return absl::OkStatus();
  std::error_code error;
  const bool existed = std::filesystem::exists(*path, error);
  if (std::ofstream(*path, std::ios::app)) {
    if (!existed) std::filesystem::remove(*path, error);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": cannot write ", *path));
}

void ReportFlags::AddTo(FlagSet* flags) {
  flags->Add("json", &json, "write the results to this file, one line of JSON");
  flags->Add("svg", &svg, "write a plot of the results to this file");
}

absl::Status ReportFlags::Check() const {
  RETURN_IF_ERROR(CheckWritable("json", json));
  return CheckWritable("svg", svg);
}

absl::Status ReportFlags::Write(const std::string& json_text, const SvgPlot& plot) const {
  if (json.has_value()) RETURN_IF_ERROR(WriteTextFile("json", *json, json_text + "\n"));
  if (svg.has_value()) RETURN_IF_ERROR(WriteTextFile("svg", *svg, plot.Render()));
  return absl::OkStatus();
}

absl::Status CheckBenchRange(absl::string_view flag, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", value, "; it must be in [", low, ", ", high, "]"));
}

absl::Status BenchCommand(const Arguments& arguments) {
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "--help") {
    std::fputs(Usage().c_str(), stdout);
    return absl::OkStatus();
  }
  for (const Kind& kind : kKinds) {
    if (name == kind.name) return kind.run(Arguments(arguments.begin() + 1, arguments.end()));
  }
  std::string known;
  for (const Kind& kind : kKinds) absl::StrAppend(&known, known.empty() ? "" : ", ", kind.name);
  return absl::InvalidArgumentError(
      name.empty() ? absl::StrCat("bench needs a kind: ", known)
                   : absl::StrCat("there is no bench \"", name, "\"; the kinds are ", known));
}

}  // namespace polystrate
