#include "launcher/flags.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "launcher/nearest_name.h"

namespace polystrate {
namespace {

constexpr size_t kHelpColumn = 33;

bool ParseValue(const std::string& text, std::string* value) {
  *value = text;
  return true;
}
bool ParseValue(const std::string& text, int64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseValue(const std::string& text, uint64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseValue(const std::string& text, double* value) { return absl::SimpleAtod(text, value); }

template <typename T>
auto Setter(T* value) {
  return [value](const std::string& text) { return ParseValue(text, value); };
}
template <typename T>
auto Setter(std::optional<T>* value) {
  return [value](const std::string& text) {
    T parsed{};
    if (!ParseValue(text, &parsed)) return false;
    *value = std::move(parsed);
    return true;
  };
}

}  // namespace

void FlagSet::Add(const std::string& name, std::string* value, const std::string& help) {
  // An empty text is a shell's variable that is not set, not a wish: --api_key_file "" must not
  // leave an engine open to all.
  const auto set = [value](const std::string& text) {
    *value = text;
    return !text.empty();
  };
  flags_.push_back({name, "TEXT", help, *value, set});
}
void FlagSet::Add(const std::string& name, int64_t* value, const std::string& help) {
  flags_.push_back({name, "N", help, absl::StrCat(*value), Setter(value)});
}
void FlagSet::Add(const std::string& name, double* value, const std::string& help) {
  flags_.push_back({name, "X", help, absl::StrCat(*value), Setter(value)});
}
void FlagSet::Add(const std::string& name, bool* value, const std::string& help) {
  flags_.push_back({name, "", help, *value ? "true" : "",
                    [value](const std::string& text) { return absl::SimpleAtob(text, value); }});
}
void FlagSet::Add(const std::string& name, std::optional<std::string>* value,
                  const std::string& help) {
  flags_.push_back({name, "TEXT", help, "", Setter(value)});
}
void FlagSet::Add(const std::string& name, std::optional<int64_t>* value, const std::string& help) {
  flags_.push_back({name, "N", help, "", Setter(value)});
}
void FlagSet::Add(const std::string& name, std::optional<uint64_t>* value,
                  const std::string& help) {
  flags_.push_back({name, "N", help, "", Setter(value)});
}
void FlagSet::Add(const std::string& name, std::optional<double>* value, const std::string& help) {
  flags_.push_back({name, "X", help, "", Setter(value)});
}
void FlagSet::Add(const std::string& name, std::vector<std::string>* value,
                  const std::string& help) {
  const auto append = [value](const std::string& text) {
    value->push_back(text);
    return true;
  };
  flags_.push_back({name, "TEXT ..", help, "", append, /*many=*/true});
}

const FlagSet::Flag* FlagSet::Find(const std::string& name) const {
  for (const Flag& flag : flags_) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status FlagSet::UnknownFlag(const std::string& name) const {
  const std::string nearest = NearestName(name, Names());
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", name,
                   nearest.empty() ? "" : absl::StrCat("; did you mean --", nearest, "?"),
                   " (--help lists all flags)"));
}

std::vector<std::string> FlagSet::Names() const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.push_back(flag.name);
  return names;
}

absl::Status FlagSet::Parse(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].rfind("--", 0) != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", arguments[i], "\" is no flag; flags start with --"));
    }
    std::string name = arguments[i].substr(2);
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    std::replace(name.begin(), name.end(), '-', '_');
    if (name == "help") {
      help_requested_ = true;
      continue;
    }
    const Flag* flag = Find(name);
    if (flag == nullptr) return UnknownFlag(name);
    if (!value.has_value() && flag->type.empty()) value = "true";
    if (!value.has_value()) {
      if (++i == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
      }
      value = arguments[i];
    }
    if (!flag->set(*value)) {
      const char* expected = flag->type == "X"      ? "a number"
                             : flag->type == "N"    ? "an integer"
                             : flag->type == "TEXT" ? "a text"
                                                    : "true or false";
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " takes ", expected, ", not \"", *value, "\""));
    }
    if (!flag->many) continue;
    for (; i + 1 < arguments.size() && !absl::StartsWith(arguments[i + 1], "--"); ++i) {
      flag->set(arguments[i + 1]);
    }
  }
  return absl::OkStatus();
}

std::string FlagSet::Help() const {
  std::string text = summary_ + "\n\n";
  for (const Flag& flag : flags_) {
    std::string left = absl::StrCat("  --", flag.name, flag.type.empty() ? "" : " ", flag.type);
    if (left.size() >= kHelpColumn) {  // a line of its own, so that all texts stay in one column
      absl::StrAppend(&text, left, "\n");
      left.clear();
    }
    left.resize(kHelpColumn, ' ');
    absl::StrAppend(&text, left, flag.help);
    if (!flag.default_value.empty()) absl::StrAppend(&text, " [", flag.default_value, "]");
    absl::StrAppend(&text, "\n");
  }
  return text;
}

absl::StatusOr<std::vector<int>> ParseIntList(const std::string& flag, const std::string& text) {
  std::vector<int> values;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    int value = 0;
    if (!absl::SimpleAtoi(part, &value)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--", flag, " takes integers with commas between, as 1,2,3; \"", part, "\" is none"));
    }
    values.push_back(value);
  }
  return values;
}

}  // namespace polystrate
