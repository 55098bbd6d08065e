#include "launcher/cluster_file.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status.h"
#include "launcher/flags.h"

namespace polystrate {
namespace {

using Kind = YamlNode::Kind;

// The flags that take a list as several texts.
constexpr const char* kRepeated[] = {"engine", "http_origin", "register"};

// A name becomes part of log lines and of a file's name.
bool IsName(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

class ClusterReader {
 public:
  explicit ClusterReader(const std::string& file) { cluster_.file = file; }

  absl::StatusOr<Cluster> Read(const YamlNode& root) {
    RETURN_IF_ERROR(CheckYamlKeys(cluster_.file, root, "a cluster file",
                                  {"hosts", "program", "log_dir", "mpirun", "defaults", "engines",
                                   "coordinator", "restart"}));
    RETURN_IF_ERROR(ReadText(root, "program", &cluster_.program));
    RETURN_IF_ERROR(ReadText(root, "log_dir", &cluster_.log_dir));
    RETURN_IF_ERROR(ReadHosts(root));
    if (const YamlNode* mpirun = root.Find("mpirun")) RETURN_IF_ERROR(ReadMpirun(*mpirun));
    if (const YamlNode* restart = root.Find("restart")) RETURN_IF_ERROR(ReadRestart(*restart));
    RETURN_IF_ERROR(ReadEngines(root));
    if (const YamlNode* found = root.Find("coordinator")) RETURN_IF_ERROR(ReadCoordinator(*found));
    return std::move(cluster_);
  }

 private:
  absl::Status Error(const YamlNode& at, const std::string& message) const {
    return YamlError(cluster_.file, at, message);
  }
  // Each leaves the value as it is where the map has no such key.
  absl::Status ReadText(const YamlNode& map, const std::string& key, std::string* value) const {
    const YamlNode* found = map.Find(key);
    if (found == nullptr) return absl::OkStatus();
    if (found->kind != Kind::kScalar || found->scalar.empty()) {
      return Error(*found, absl::StrCat("\"", key, "\" takes a text"));
    }
    *value = found->scalar;
    return absl::OkStatus();
  }
  absl::Status ReadCount(const YamlNode& map, const std::string& key, int64_t low,
                         int64_t* value) const {
    constexpr int64_t kMost = 1000000;
    const YamlNode* found = map.Find(key);
    if (found == nullptr) return absl::OkStatus();
    if (!absl::SimpleAtoi(found->scalar, value) || *value < low || *value > kMost) {
      return Error(*found, absl::StrCat("\"", key, "\" takes an integer in [", low, ", ", kMost,
                                        "], not \"", found->scalar, "\""));
    }
    return absl::OkStatus();
  }
  absl::Status ReadDuration(const YamlNode& map, const std::string& key,
                            absl::Duration* value) const {
    const YamlNode* found = map.Find(key);
    if (found == nullptr) return absl::OkStatus();
    double seconds = 0;
    if (absl::SimpleAtod(found->scalar, &seconds)) {
      *value = absl::Seconds(seconds);
    } else if (!absl::ParseDuration(found->scalar, value)) {
      *value = -absl::Seconds(1);
    }
    if (*value >= absl::ZeroDuration() && *value <= absl::Hours(24)) return absl::OkStatus();
    return Error(*found, absl::StrCat("\"", key, "\" takes a time up to a day, as 30s or 500ms, ",
                                      "not \"", found->scalar, "\""));
  }
  absl::Status ReadTexts(const YamlNode& map, const std::string& key,
                         std::vector<std::string>* values) const {
    const YamlNode* found = map.Find(key);
    if (found == nullptr) return absl::OkStatus();
    if (found->kind != Kind::kList) {
      return Error(*found, absl::StrCat("\"", key, "\" takes a list, as [a, b]"));
    }
    for (const YamlNode& item : found->items) {
      if (item.kind != Kind::kScalar || item.scalar.empty()) {
        return Error(item, absl::StrCat("\"", key, "\" takes a list of texts"));
      }
      values->push_back(item.scalar);
    }
    return absl::OkStatus();
  }

  absl::Status ReadHosts(const YamlNode& root) {
    const YamlNode* hosts = root.Find("hosts");
    if (hosts == nullptr) {
      cluster_.hosts = {{"localhost"}};
      return absl::OkStatus();
    }
    if (hosts->kind != Kind::kList || hosts->items.empty()) {
      return Error(*hosts, "\"hosts\" takes a list, as [{name: node1, slots: 4}]");
    }
    for (const YamlNode& item : hosts->items) {
      RETURN_IF_ERROR(CheckYamlKeys(cluster_.file, item, "a host", {"name", "slots"}));
      ClusterHost host;
      RETURN_IF_ERROR(ReadText(item, "name", &host.name));
      RETURN_IF_ERROR(ReadCount(item, "slots", 1, &host.slots));
      if (host.name.empty() || host.slots == 0) {
        return Error(item, "a host has a name and slots, the ranks that it may have");
      }
      // A comma or a colon would mean something to mpirun.
      if (host.name.find_first_of(",: /") != std::string::npos || host.name[0] == '-') {
        return Error(item, absl::StrCat("\"", host.name, "\" is no host's name"));
      }
      if (HasHost(host.name)) {
        return Error(item, absl::StrCat("the host \"", host.name, "\" is there twice"));
      }
      cluster_.hosts.push_back(std::move(host));
    }
    return absl::OkStatus();
  }
  bool HasHost(const std::string& name) const {
    return std::any_of(cluster_.hosts.begin(), cluster_.hosts.end(),
                       [&name](const ClusterHost& host) { return host.name == name; });
  }
  absl::Status CheckHost(const YamlNode& at, const std::string& name) const {
    if (HasHost(name)) return absl::OkStatus();
    return Error(at, absl::StrCat("\"", name, "\" is none of `hosts`: ",
                                  absl::StrJoin(cluster_.hosts, ", ",
                                                [](std::string* out, const ClusterHost& host) {
                                                  absl::StrAppend(out, host.name);
                                                })));
  }

  absl::Status ReadMpirun(const YamlNode& map) {
    MpirunOptions& mpirun = cluster_.mpirun;
    RETURN_IF_ERROR(
        CheckYamlKeys(cluster_.file, map, "mpirun", {"path", "ssh", "interface", "env", "args"}));
    RETURN_IF_ERROR(ReadText(map, "path", &mpirun.path));
    RETURN_IF_ERROR(ReadText(map, "ssh", &mpirun.ssh));
    RETURN_IF_ERROR(ReadText(map, "interface", &mpirun.interface));
    RETURN_IF_ERROR(ReadTexts(map, "args", &mpirun.args));
    const YamlNode* env = map.Find("env");
    if (env == nullptr) return absl::OkStatus();
    if (env->kind != Kind::kMap) return Error(*env, "\"env\" is a list of `NAME: value`");
    for (size_t i = 0; i < env->keys.size(); ++i) {
      if (env->items[i].kind != Kind::kScalar) return Error(env->items[i], "this is no text");
      mpirun.env.emplace_back(env->keys[i].scalar, env->items[i].scalar);
    }
    return absl::OkStatus();
  }

  absl::Status ReadRestart(const YamlNode& map) {
    RestartOptions& restart = cluster_.restart;
    RETURN_IF_ERROR(
        CheckYamlKeys(cluster_.file, map, "restart", {"first", "most", "healthy", "tries"}));
    RETURN_IF_ERROR(ReadDuration(map, "first", &restart.first));
    RETURN_IF_ERROR(ReadDuration(map, "most", &restart.most));
    RETURN_IF_ERROR(ReadDuration(map, "healthy", &restart.healthy));
    RETURN_IF_ERROR(ReadCount(map, "tries", 0, &restart.tries));
    if (restart.most >= restart.first) return absl::OkStatus();
    return Error(map, "\"most\" must not be less than \"first\"");
  }

  // "--name=value" of a key that is a flag, whose value is set too. A list is "0,6,12" to a flag,
  // or several flags.
  absl::Status ReadFlag(const YamlNode& key, const YamlNode& value, FlagSet* flags,
                        Arguments* arguments) const {
    std::vector<std::string> texts = {value.scalar};
    if (value.kind == Kind::kList) {
      texts.clear();
      for (const YamlNode& item : value.items) texts.push_back(item.scalar);
      const bool repeated =
          std::find(std::begin(kRepeated), std::end(kRepeated), key.scalar) != std::end(kRepeated);
      if (!repeated) texts = {absl::StrJoin(texts, ",")};
    }
    for (const std::string& text : texts) {
      if (text.empty()) return Error(value, absl::StrCat("\"", key.scalar, "\" takes a value"));
      const std::string argument = absl::StrCat("--", key.scalar, "=", text);
      const absl::Status status = flags->Parse({argument});
      if (!status.ok()) return Error(value, std::string(status.message()));
      arguments->push_back(argument);
    }
    return absl::OkStatus();
  }
  // All of `map` but the keys of `own`; what `before` has is left out where the map says it anew.
  absl::Status ReadFlags(const YamlNode& map, const std::vector<std::string>& own,
                         const YamlNode* before, FlagSet* flags, Arguments* arguments) const {
    for (const YamlNode* source : {before, &map}) {
      for (size_t i = 0; source != nullptr && i < source->keys.size(); ++i) {
        const std::string& name = source->keys[i].scalar;
        if (std::find(own.begin(), own.end(), name) != own.end()) continue;
        if (source == before && map.Find(name) != nullptr) continue;
        RETURN_IF_ERROR(ReadFlag(source->keys[i], source->items[i], flags, arguments));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadEngines(const YamlNode& root) {
    ServeFlags flags;
    FlagSet set("");
    flags.AddTo(&set);
    const YamlNode* defaults = root.Find("defaults");
    if (defaults != nullptr) {
      RETURN_IF_ERROR(CheckYamlKeys(cluster_.file, *defaults, "defaults", set.Names()));
    }
    const YamlNode* engines = root.Find("engines");
    if (engines == nullptr || engines->kind != Kind::kList || engines->items.empty()) {
      return Error(engines == nullptr ? root : *engines,
                   "\"engines\" takes a list, as [{name: a, model: DIR, tp: 2, pp: 2}]");
    }
    for (const YamlNode& item : engines->items) RETURN_IF_ERROR(ReadEngine(item, defaults));
    return absl::OkStatus();
  }

  absl::Status ReadEngine(const YamlNode& map, const YamlNode* defaults) {
    ClusterEngine engine;
    FlagSet set("");
    engine.flags.AddTo(&set);
    const std::vector<std::string> own = {"name", "hosts"};
    std::vector<std::string> known = own;
    for (const std::string& name : set.Names()) known.push_back(name);
    RETURN_IF_ERROR(CheckYamlKeys(cluster_.file, map, "an engine", known));
    engine.at.line = map.line;
    engine.at.column = map.column;
    RETURN_IF_ERROR(ReadText(map, "name", &engine.name));
    if (!IsName(engine.name)) {
      return Error(map, absl::StrCat("an engine has a name of letters, digits, -, _ and .",
                                     engine.name.empty() ? "" : "; not ", engine.name));
    }
    for (const ClusterEngine& other : cluster_.engines) {
      if (other.name != engine.name) continue;
      return Error(map, absl::StrCat("the engine \"", engine.name, "\" is there twice"));
    }
    RETURN_IF_ERROR(ReadTexts(map, "hosts", &engine.hosts));
    for (size_t i = 0; i < engine.hosts.size(); ++i) {
      RETURN_IF_ERROR(CheckHost(map.Find("hosts")->items[i], engine.hosts[i]));
    }
    RETURN_IF_ERROR(ReadFlags(map, own, defaults, &set, &engine.arguments));
    const ModelFlags& model = engine.flags.engine.model;
    if (model.model.empty()) return Error(map, "an engine has a \"model\", a directory");
    constexpr int64_t kMost = 4096;
    if (std::min(model.tp, model.pp) < 1 || std::max(model.tp, model.pp) > kMost) {
      return Error(map, absl::StrCat("\"tp\" ", model.tp, " and \"pp\" ", model.pp,
                                     " must be in [1, ", kMost, "]"));
    }
    const absl::Status status = engine.flags.Check();
    if (!status.ok()) return Error(map, std::string(status.message()));
    cluster_.engines.push_back(std::move(engine));
    return absl::OkStatus();
  }

  absl::Status ReadCoordinator(const YamlNode& map) {
    ClusterCoordinator coordinator;
    FlagSet set("");
    coordinator.flags.AddTo(&set);
    const std::vector<std::string> own = {"host"};
    std::vector<std::string> known = own;
    for (const std::string& name : set.Names()) known.push_back(name);
    RETURN_IF_ERROR(CheckYamlKeys(cluster_.file, map, "a coordinator", known));
    coordinator.at.line = map.line;
    coordinator.at.column = map.column;
    RETURN_IF_ERROR(ReadText(map, "host", &coordinator.host));
    if (const YamlNode* host = map.Find("host")) RETURN_IF_ERROR(CheckHost(*host, host->scalar));
    RETURN_IF_ERROR(ReadFlags(map, own, /*before=*/nullptr, &set, &coordinator.arguments));
    cluster_.coordinator = std::move(coordinator);
    return absl::OkStatus();
  }

  Cluster cluster_;
};

}  // namespace

absl::StatusOr<Cluster> ParseCluster(const std::string& file, const std::string& text) {
  ASSIGN_OR_RETURN(const YamlNode root, ParseYaml(file, text));
  return ClusterReader(file).Read(root);
}

absl::StatusOr<Cluster> ReadClusterFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat("cannot read the cluster file ", path));
  }
  return ParseCluster(path, text.str());
}

}  // namespace polystrate
