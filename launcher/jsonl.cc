#include "launcher/jsonl.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr size_t kMaxLineBytes = 16 << 20;
constexpr int64_t kMaxFileBytes = int64_t{1} << 30;

// The next line, or its first kMaxLineBytes + 1 bytes; false at the end of the file.
bool ReadLine(std::istream& file, std::string* line) {
  line->clear();
  std::streambuf& bytes = *file.rdbuf();
  int byte = bytes.sbumpc();
  if (byte == EOF) return false;
  for (; byte != EOF && byte != '\n'; byte = bytes.sbumpc()) {
    line->push_back(static_cast<char>(byte));
    if (line->size() > kMaxLineBytes) break;
  }
  return true;
}

}  // namespace

absl::Status ForEachJsonLine(
    const std::string& path,
    const std::function<absl::Status(const JsonView& line, const std::string& where)>& visit) {
  std::error_code error;
  std::ifstream file(path);
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  }
  std::string text;
  int64_t bytes_left = kMaxFileBytes;
  for (int64_t number = 1; ReadLine(file, &text); ++number) {
    bytes_left -= static_cast<int64_t>(text.size());
    if (text.size() > kMaxLineBytes || bytes_left < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": too long; a line has at most ", kMaxLineBytes,
                       " bytes, the file ", kMaxFileBytes));
    }
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = absl::StrCat(path, ":", number);
    ASSIGN_OR_RETURN(const Json line, Json::Parse(text, where));
    const absl::Status status = visit(line.root(), where);
    if (!status.ok() && !absl::StrContains(status.message(), where)) {
      return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
    }
    RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

}  // namespace polystrate
