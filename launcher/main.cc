// polystrate: one binary, a subcommand for each thing it does.

#include <fcntl.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "launcher/commands.h"
#include "launcher/signals.h"
#include "launcher/waiting.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

struct Command {
  const char* name;
  const char* summary;
  bool runs_model;
  absl::Status (*run)(const Arguments& arguments);
};

constexpr Command kCommands[] = {
    {"generate", "text from prompts, offline", true, GenerateCommand},
    {"score", "log-probabilities of texts, offline", true, ScoreCommand},
    {"eval", "accuracy and perplexity on a task's questions, offline", true, EvalCommand},
    {"serve", "one rank of an engine behind gRPC", true, ServeCommand},
    {"client", "a prompt to a running engine, the text as it streams", false, ClientCommand},
    {"plan", "how a model is cut and what fits, from config.json alone", false, PlanCommand},
    {"bench", "the papers' measurements, with random weights", true, BenchCommand},
    {"convert", "a model with fewer KV heads or layers from one that shares none", false,
     ConvertCommand},
};

void PrintUsage(std::FILE* out) {
  std::fprintf(
      out,
      "polystrate %s: inference for transformers that share key/value heads over layers\n\n"
      "usage: polystrate COMMAND [--flag value ...]    (polystrate COMMAND --help)\n\n",
      POLYSTRATE_VERSION);
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-10s %s\n", command.name, command.summary);
  }
}

const Command* FindCommand(const std::string& name) {
  for (const Command& command : kCommands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

// 2 for what the user can mend, 1 for the rest.
int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kDataLoss:
      return 2;
    default:
      return 1;
  }
}

// A file or socket that is opened where standard output or error should be would receive what is
// printed. A closed one becomes one whose writes fail, so that a lost result is an error.
void OpenStandardFiles() {
  for (int fd : {0, 1, 2}) {
    if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) open("/dev/null", O_RDONLY);
  }
}

int Main(int argc, char** argv) {
  const bool prints = ReadLaunchInfo().rank == 0;  // all ranks say the same; one is enough
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--help" || name == "help") {
    if (prints) PrintUsage(stdout);
    return 0;
  }
  if (name == "--version") {
    if (prints) std::printf("polystrate %s\n", POLYSTRATE_VERSION);
    return 0;
  }
  const Command* command = FindCommand(name);
  if (command == nullptr) {
    if (prints) {
      if (!name.empty()) std::fprintf(stderr, "error: unknown command \"%s\"\n\n", name.c_str());
      PrintUsage(stderr);
    }
    return 2;
  }
  absl::Status status = command->run(Arguments(argv + 2, argv + argc));
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    status.Update(absl::UnavailableError("cannot write to standard output"));
  }
  if (!status.ok() && prints) {
    std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  }
  return ExitCode(status);
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) {
  polystrate::OpenStandardFiles();
  const std::string name = argc > 1 ? argv[1] : "";
  // A server drains on SIGTERM whenever it comes, so its handlers are there before anything else;
  // the other commands die of it, as commands do.
  polystrate::BlockDrainSignals();
  const polystrate::Command* command = polystrate::FindCommand(name);
  if (command != nullptr && command->runs_model) polystrate::BoundThreadSpinning(argv);
  if (name == "serve") polystrate::InstallDrainSignals();
  polystrate::UnblockDrainSignals();
  return polystrate::Main(argc, argv);
}
