#include "tests/testing/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/check.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string TempFile() {
  const char* dir = std::getenv("TMPDIR");
  std::string path = absl::StrCat(dir == nullptr ? "/tmp" : dir, "/polystrate-test-XXXXXX");
  const int fd = mkstemp(path.data());
  CHECK_GE(fd, 0);
  close(fd);
  return path;
}

// What Open MPI leaves behind when mpirun is killed (4 MiB of shared memory for each rank) goes
// away with the process that left it.
std::string ScratchDir() {
  std::string path = "/dev/shm/polystrate-test-XXXXXX";
  CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

// Below the ports that Linux gives to connections (32768 on): nothing but a test asks for these.
constexpr int kFirstTestPort = 12000;
constexpr int kLastTestPort = 31999;

// Between test processes, until this one ends: the name of an abstract socket is the reservation.
bool Reserve(int port) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string name = absl::StrCat("polystrate-test-port-", port);
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
  const socklen_t size = offsetof(sockaddr_un, sun_path) + 1 + name.size();
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0) return true;
  close(fd);
  return false;
}

bool IsFree(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(port);
  const bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return free;
}

// What the child does between fork and exec.
[[noreturn]] void Exec(const CommandLine& command, const std::string& out, const std::string& err,
                       const std::string& scratch) {
  setpgid(0, 0);
  setenv("OMPI_MCA_btl_vader_backing_directory", scratch.c_str(), /*replace=*/1);
  setenv("OMPI_MCA_orte_tmpdir_base", scratch.c_str(), /*replace=*/1);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(open(out.c_str(), O_WRONLY | O_TRUNC), STDOUT_FILENO);
  dup2(open(err.c_str(), O_WRONLY | O_TRUNC), STDERR_FILENO);
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

}  // namespace

CommandLine Polystrate(const CommandLine& arguments) {
  CommandLine command = {BuiltProgram("polystrate")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

CommandLine Mpirun(int ranks, const CommandLine& command) {
  CommandLine line = {"mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                      "-np",    std::to_string(ranks)};
  line.insert(line.end(), command.begin(), command.end());
  return line;
}

Process::Process(const CommandLine& command)
    : out_path_(TempFile()), err_path_(TempFile()), scratch_dir_(ScratchDir()) {
  pid_ = fork();
  CHECK_GE(pid_, 0);
  if (pid_ == 0) Exec(command, out_path_, err_path_, scratch_dir_);
  setpgid(pid_, pid_);  // whichever of the two comes first
}

Process::~Process() {
  if (!exit_code_.has_value()) {
    kill(-pid_, SIGKILL);
    Wait(absl::Seconds(30));
  }
  std::filesystem::remove(out_path_);
  std::filesystem::remove(err_path_);
  std::error_code gone;  // by a rank that is just leaving
  std::filesystem::remove_all(scratch_dir_, gone);
}

void Process::Signal(int number) const { kill(pid_, number); }

std::optional<int> Process::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!exit_code_.has_value()) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (absl::Now() >= deadline) {
      return std::nullopt;
    } else {
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  return exit_code_;
}

std::string Process::Out() const { return ReadWhole(out_path_); }
std::string Process::Err() const { return ReadWhole(err_path_); }

std::string Process::LineWith(const std::string& text) const {
  std::istringstream lines(Err());
  for (std::string line; std::getline(lines, line);) {
    if (line.find(text) != std::string::npos) return line;
  }
  return "";
}

bool Process::WaitForOutput(const std::string& text, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    const bool ended = Wait(absl::ZeroDuration()).has_value();
    if (Out().find(text) != std::string::npos) return true;
    if (Err().find(text) != std::string::npos) return true;
    if (ended) return false;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

CommandResult RunCommand(const CommandLine& command, absl::Duration timeout) {
  Process process(command);
  const std::optional<int> exit_code = process.Wait(timeout);
  return {exit_code.value_or(-1), process.Out(), process.Err()};
}

int FreePort() {
  std::minstd_rand random(std::random_device{}());
  while (true) {
    const int port = std::uniform_int_distribution<int>(kFirstTestPort, kLastTestPort)(random);
    if (Reserve(port) && IsFree(port)) return port;
  }
}

std::vector<pid_t> ProcessesWith(const std::string& text) {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid) || pid == getpid()) continue;
    std::string command = ReadWhole(absl::StrCat("/proc/", pid, "/cmdline"));
    std::replace(command.begin(), command.end(), '\0', ' ');
    if (command.find(text) != std::string::npos) pids.push_back(pid);
  }
  return pids;
}

bool AllGone(const std::string& text, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!ProcessesWith(text).empty()) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

}  // namespace polystrate
