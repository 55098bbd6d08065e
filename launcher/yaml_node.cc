#include "launcher/yaml_node.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status.h"
#include "launcher/nearest_name.h"
#include "yaml-cpp/yaml.h"

namespace polystrate {
namespace {

// An alias may stand for a list of aliases, and for the list it stands in.
constexpr int kMaxDepth = 32;
constexpr int kMaxNodes = 100000;

class Converter {
 public:
  explicit Converter(const std::string& file) : file_(file) {}

  absl::StatusOr<YamlNode> Convert(const YAML::Node& node, int depth) {
    YamlNode converted;
    converted.line = node.Mark().line + 1;
    converted.column = node.Mark().column + 1;
    if (depth > kMaxDepth || ++num_nodes_ > kMaxNodes) {
      return YamlError(file_, converted, "the file is nested too deeply, or too large");
    }
    if (node.IsScalar()) {
      converted.kind = YamlNode::Kind::kScalar;
      converted.scalar = node.Scalar();
    } else if (node.IsSequence()) {
      converted.kind = YamlNode::Kind::kList;
      for (const auto& item : node) {
        ASSIGN_OR_RETURN(YamlNode value, Convert(item, depth + 1));
        converted.items.push_back(std::move(value));
      }
    } else if (node.IsMap()) {
      converted.kind = YamlNode::Kind::kMap;
      for (const auto& entry : node) {
        RETURN_IF_ERROR(AddEntry(entry.first, entry.second, depth, &converted));
      }
    }
    return converted;
  }

 private:
  absl::Status AddEntry(const YAML::Node& key, const YAML::Node& value, int depth, YamlNode* map) {
    ASSIGN_OR_RETURN(YamlNode name, Convert(key, depth + 1));
    if (name.kind != YamlNode::Kind::kScalar) return YamlError(file_, name, "a key must be a word");
    if (map->Find(name.scalar) != nullptr) {
      return YamlError(file_, name, absl::StrCat("\"", name.scalar, "\" is there twice"));
    }
    ASSIGN_OR_RETURN(YamlNode converted, Convert(value, depth + 1));
    map->keys.push_back(std::move(name));
    map->items.push_back(std::move(converted));
    return absl::OkStatus();
  }

  const std::string& file_;
  int num_nodes_ = 0;
};

}  // namespace

const YamlNode* YamlNode::Find(const std::string& key) const {
  const auto found = std::find_if(keys.begin(), keys.end(),
                                  [&key](const YamlNode& name) { return name.scalar == key; });
  return found == keys.end() ? nullptr : &items[found - keys.begin()];
}

// yaml-cpp speaks in exceptions; none of them leaves here.
absl::StatusOr<YamlNode> ParseYaml(const std::string& file, const std::string& text) {
  try {
    return Converter(file).Convert(YAML::Load(text), 0);
  } catch (const YAML::Exception& error) {
    YamlNode at;
    at.line = error.mark.line + 1;
    at.column = error.mark.column + 1;
    return YamlError(file, at, absl::StrCat("no YAML: ", error.msg));
  }
}

absl::Status YamlError(const std::string& file, const YamlNode& at, const std::string& message) {
  return absl::InvalidArgumentError(
      absl::StrCat(file, ":", at.line, ":", at.column, ": ", message));
}

absl::Status CheckYamlKeys(const std::string& file, const YamlNode& map, const std::string& what,
                           const std::vector<std::string>& known) {
  if (map.kind != YamlNode::Kind::kMap) {
    return YamlError(file, map, absl::StrCat(what, " is a list of `key: value`"));
  }
  for (const YamlNode& key : map.keys) {
    if (std::find(known.begin(), known.end(), key.scalar) != known.end()) continue;
    const std::string nearest = NearestName(key.scalar, known);
    constexpr size_t kFew = 12;  // more would hide what is wrong
    return YamlError(
        file, key,
        absl::StrCat(what, " has no \"", key.scalar, "\"",
                     !nearest.empty()       ? absl::StrCat("; did you mean \"", nearest, "\"?")
                     : known.size() <= kFew ? absl::StrCat("; it has ", absl::StrJoin(known, ", "))
                                            : ""));
  }
  return absl::OkStatus();
}

}  // namespace polystrate
