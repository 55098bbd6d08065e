// FlagSet: the flags of one subcommand. `--name value` and `--name=value`; a hyphen may stand for
// an underscore; a bool stands alone or takes =true or =false. Unknown flags are errors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace polystrate {

class FlagSet {
 public:
  // `summary` is the first line of --help, as "polystrate plan: what fits".
  explicit FlagSet(std::string summary) : summary_(std::move(summary)) {}

  // Each adds a flag that writes *value, which must outlive Parse() and holds the default.
  void Add(const std::string& name, std::string* value, const std::string& help);
  void Add(const std::string& name, int64_t* value, const std::string& help);
  void Add(const std::string& name, double* value, const std::string& help);
  void Add(const std::string& name, bool* value, const std::string& help);
  // Without a default: *value stays empty unless the flag is given.
  void Add(const std::string& name, std::optional<std::string>* value, const std::string& help);
  void Add(const std::string& name, std::optional<int64_t>* value, const std::string& help);
  void Add(const std::string& name, std::optional<uint64_t>* value, const std::string& help);
  void Add(const std::string& name, std::optional<double>* value, const std::string& help);
  // Takes all arguments up to the next flag, at least one: --goodput ttft:500 tpot:50.
  void Add(const std::string& name, std::vector<std::string>* value, const std::string& help);

  // INVALID_ARGUMENT names the flag, what it got and what it takes; a misspelt one, its nearest
  // neighbour.
  absl::Status Parse(const std::vector<std::string>& arguments);
  bool help_requested() const { return help_requested_; }
  std::string Help() const;
  // Of all flags, in the order in which they were added.
  std::vector<std::string> Names() const;

 private:
  struct Flag {
    std::string name;
    std::string type;  // as --help shows it; empty for a bool
    std::string help;
    std::string default_value;
    std::function<bool(const std::string&)> set;  // false: not of the type
    bool many = false;                            // takes every argument up to the next flag
  };
  const Flag* Find(const std::string& name) const;
  absl::Status UnknownFlag(const std::string& name) const;

  std::string summary_;
  std::vector<Flag> flags_;
  bool help_requested_ = false;
};

// "1,2,3" -> {1, 2, 3}; INVALID_ARGUMENT names the flag and the part that is no integer.
absl::StatusOr<std::vector<int>> ParseIntList(const std::string& flag, const std::string& text);

}  // namespace polystrate
