#include "tests/testing/exposition.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using Labels = Exposition::Labels;
using Family = Exposition::Family;

absl::Status Bad(const std::string& line, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(why, ": ", line));
}

bool IsMetricName(const std::string& name) {
  static const std::regex pattern("[a-zA-Z_:][a-zA-Z0-9_:]*");
  return std::regex_match(name, pattern);
}

// name="value",... between braces, from `at` on, which is left behind the closing one.
absl::StatusOr<Labels> ParseLabels(const std::string& line, size_t* at) {
  static const std::regex name_pattern("[a-zA-Z_][a-zA-Z0-9_]*");
  Labels labels;
  while (true) {
    const size_t equals = line.find("=\"", *at);
    if (equals == std::string::npos) return Bad(line, "no label");
    const std::string name = line.substr(*at, equals - *at);
    if (!std::regex_match(name, name_pattern)) return Bad(line, "bad label name");
    std::string value;
    size_t i = equals + 2;
    for (; i < line.size() && line[i] != '"'; ++i) {
      if (line[i] == '\\') {
        ++i;
        if (i >= line.size() || !strchr("\\\"n", line[i])) return Bad(line, "bad escape");
        value += line[i] == 'n' ? '\n' : line[i];
      } else {
        value += line[i];
      }
    }
    if (i + 1 >= line.size()) return Bad(line, "unterminated labels");
    if (!labels.emplace(name, value).second) return Bad(line, "label twice");
    *at = i + 2;
    if (line[i + 1] == '}') return labels;
    if (line[i + 1] != ',') return Bad(line, "no comma between labels");
  }
}

absl::StatusOr<double> ParseValue(const std::string& line, const std::string& text) {
  if (text == "+Inf") return INFINITY;
  if (text == "Nan" || text == "NaN") return NAN;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') return Bad(line, "no number");
  return value;
}

std::string FamilyOf(const std::string& sample, const std::string& type) {
  std::string name = sample;
  if (type != "histogram" && type != "summary") return name;
  for (const char* suffix : {"_bucket", "_sum", "_count"}) {
    if (absl::EndsWith(name, suffix)) return name.substr(0, name.size() - strlen(suffix));
  }
  return name;
}

class Parser {
 public:
  absl::StatusOr<Exposition> Parse(const std::string& text) {
    if (text.empty() || text.back() != '\n') return Bad("", "does not end with a line break");
    const std::vector<std::string> lines = absl::StrSplit(absl::StripSuffix(text, "\n"), '\n');
    for (const std::string& line : lines) {
      RETURN_IF_ERROR(absl::StartsWith(line, "#") ? Comment(line) : Sample(line));
    }
    for (const auto& [name, family] : exposition_.families) {
      RETURN_IF_ERROR(CheckFamily(name, family));
    }
    return exposition_;
  }

 private:
  absl::Status Comment(const std::string& line) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words.size() != 4 || words[0] != "#") return Bad(line, "neither HELP nor TYPE");
    const std::string& name = words[2];
    if (!IsMetricName(name)) return Bad(line, "bad metric name");
    if (words[1] == "HELP") {
      if (!exposition_.families.emplace(name, Family{"", words[3], {}}).second) {
        return Bad(line, "family twice");
      }
      current_ = name;
      return absl::OkStatus();
    }
    if (words[1] != "TYPE" || current_ != name) return Bad(line, "TYPE without HELP before it");
    Family& family = exposition_.families[name];
    if (!family.type.empty() || !family.samples.empty()) return Bad(line, "TYPE comes late");
    family.type = words[3];
    return absl::OkStatus();
  }

  absl::Status Sample(const std::string& line) {
    size_t at = line.find_first_of("{ ");
    if (at == std::string::npos) return Bad(line, "no value");
    const std::string name = line.substr(0, at);
    if (!IsMetricName(name)) return Bad(line, "bad metric name");
    Labels labels;
    if (line[at++] == '{') {
      ASSIGN_OR_RETURN(labels, ParseLabels(line, &at));
      if (line[at++] != ' ') return Bad(line, "no space before the value");
    }
    ASSIGN_OR_RETURN(const double value, ParseValue(line, line.substr(at)));
    Family& family = exposition_.families[current_];
    if (FamilyOf(name, family.type) != current_) return Bad(line, "outside its family");
    if (!family.samples[name].emplace(labels, value).second) return Bad(line, "sample twice");
    return absl::OkStatus();
  }

  static absl::Status CheckFamily(const std::string& name, const Family& family) {
    if (family.samples.empty()) return Bad(name, "no sample");
    if (family.type == "counter") {
      if (!absl::EndsWith(name, "_total")) return Bad(name, "a counter that is no _total");
      for (const auto& [labels, value] : family.samples.at(name)) {
        if (!(value >= 0)) return Bad(name, "a negative counter");
      }
    } else if (family.type == "histogram") {
      return CheckHistogram(name, family);
    } else if (family.type != "gauge" && family.type != "summary") {
      return Bad(name, "unknown type");
    }
    return absl::OkStatus();
  }

  static absl::Status CheckHistogram(const std::string& name, const Family& family) {
    std::map<Labels, std::map<double, double>> buckets;  // by le
    if (family.samples.size() != 3) return Bad(name, "not _bucket, _sum and _count alone");
    for (const auto& [sample_labels, value] : family.samples.at(name + "_bucket")) {
      Labels labels = sample_labels;
      const auto le = labels.extract("le");
      if (le.empty()) return Bad(name, "a bucket without le");
      ASSIGN_OR_RETURN(const double bound, ParseValue(name, le.mapped()));
      buckets[labels][bound] = value;
    }
    for (const auto& [labels, by_bound] : buckets) {
      double last = 0;
      for (const auto& [bound, value] : by_bound) {
        if (value < last) return Bad(name, "buckets are not cumulative");
        last = value;
      }
      if (by_bound.rbegin()->first != INFINITY) return Bad(name, "no bucket +Inf");
      const auto& counts = family.samples.at(name + "_count");
      const auto count = counts.find(labels);
      if (count == counts.end() || count->second != last) return Bad(name, "+Inf is not _count");
      if (!family.samples.at(name + "_sum").contains(labels)) return Bad(name, "no _sum");
    }
    return absl::OkStatus();
  }

  Exposition exposition_;
  std::string current_;
};

}  // namespace

double Exposition::Value(const std::string& name, const Labels& labels) const {
  std::vector<double> found;
  for (const auto& [family_name, family] : families) {
    const auto samples = family.samples.find(name);
    if (samples == family.samples.end()) continue;
    for (const auto& [sample_labels, value] : samples->second) {
      bool matches = true;
      for (const auto& [key, wanted] : labels) {
        const auto label = sample_labels.find(key);
        matches = matches && label != sample_labels.end() && label->second == wanted;
      }
      if (matches) found.push_back(value);
    }
  }
  if (found.size() != 1) {
    CheckFailed(__FILE__, __LINE__, absl::StrCat(found.size(), " samples of ", name));
  }
  return found[0];
}

absl::StatusOr<Exposition> ParseExposition(const std::string& text) { return Parser().Parse(text); }

absl::StatusOr<std::string> Scrape(int port, const std::string& path) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd);
    return absl::UnavailableError("nobody listens");
  }
  const timeval timeout = {.tv_sec = 10};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  const std::string request =
      absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
  CHECK_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
  close(fd);
  const size_t end = answer.find("\r\n\r\n");
  if (end == std::string::npos) return absl::UnavailableError("no whole answer");
  const std::string head = answer.substr(0, end);
  if (!absl::StartsWith(head, "HTTP/1.1 200 ")) return absl::NotFoundError(head);
  if (!absl::StrContains(head, "Content-Type: text/plain; charset=utf-8")) {
    return absl::InvalidArgumentError(head);
  }
  return answer.substr(end + 4);
}

}  // namespace polystrate
