#include "launcher/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

// Between fork and exec: nothing that takes a lock or memory.
[[noreturn]] void Exec(char* const* argv, char* const* environment, int output, pid_t parent) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it has died already
  for (int number = 1; number < NSIG; ++number) std::signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  execvpe(argv[0], argv, environment);
  const char* const words[] = {"cannot run ", argv[0], ": ", strerrordesc_np(errno), "\n"};
  for (const char* word : words) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, word, strlen(word));
  }
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const Arguments& command,
                                                 const std::string& mark) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> environment;
  const std::string name = mark.substr(0, mark.find('=') + 1);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (strncmp(*variable, name.c_str(), name.size()) != 0) environment.push_back(*variable);
  }
  environment.push_back(const_cast<char*>(mark.c_str()));
  environment.push_back(nullptr);

  int ends[2] = {-1, -1};
  if (pipe2(ends, O_CLOEXEC) != 0) {
    return absl::UnavailableError(absl::StrCat("no pipe: ", strerror(errno)));
  }
  fcntl(ends[0], F_SETFL, O_NONBLOCK);
  ChildProcess child;
  child.output_fd_ = ends[0];
  const pid_t parent = getpid();
  child.pid_ = fork();
  if (child.pid_ == 0) Exec(argv.data(), environment.data(), ends[1], parent);
  const int error = errno;
  close(ends[1]);
  if (child.pid_ < 0) return absl::UnavailableError(absl::StrCat("no process: ", strerror(error)));
  return child;
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(output_fd_, other.output_fd_);
  return *this;
}

ChildProcess::~ChildProcess() { CloseOutput(); }

void ChildProcess::CloseOutput() {
  if (output_fd_ >= 0) close(std::exchange(output_fd_, -1));
}

}  // namespace polystrate
