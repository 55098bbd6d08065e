#include "launcher/descendants.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace polystrate {
namespace {

std::string ReadProc(pid_t pid, const char* name) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/", name), std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The parent of a live process; 0 of a dead one.
pid_t ParentOf(pid_t pid) {
  const std::string stat = ReadProc(pid, "stat");
  const size_t name_end = stat.rfind(')');  // a name may hold anything
  if (name_end == std::string::npos) return 0;
  char state = 'X';
  pid_t parent = 0;
  std::istringstream(stat.substr(name_end + 1)) >> state >> parent;
  return state == 'Z' || state == 'X' ? 0 : parent;
}

}  // namespace

std::vector<Descendant> DescendantsOf(pid_t ancestor) {
  // A /proc of another PID namespace counts otherwise: its numbers are other processes here.
  std::error_code not_there;
  if (std::filesystem::read_symlink("/proc/self", not_there) != absl::StrCat(getpid())) return {};
  std::multimap<pid_t, pid_t> children;
  std::error_code error;
  for (std::filesystem::directory_iterator entry("/proc", error), end; !error && entry != end;
       entry.increment(error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry->path().filename().string(), &pid)) continue;
    children.emplace(ParentOf(pid), pid);
  }
  std::vector<Descendant> found;
  const auto add_children_of = [&](pid_t parent) {
    const auto [begin, end] = children.equal_range(parent);
    for (auto child = begin; child != end; ++child) found.push_back({child->second, parent});
  };
  add_children_of(ancestor);
  for (size_t i = 0; i < found.size(); ++i) add_children_of(found[i].pid);
  return found;
}

std::optional<std::string> StartedWith(pid_t pid, const std::string& name) {
  const std::string prefix = name + "=";
  for (absl::string_view variable : absl::StrSplit(ReadProc(pid, "environ"), '\0')) {
    if (variable.substr(0, prefix.size()) == prefix) {
      return std::string(variable.substr(prefix.size()));
    }
  }
  return std::nullopt;
}

}  // namespace polystrate
