// polystrate: one binary, a subcommand for each thing it does.

#include <fcntl.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "launcher/commands.h"
#include "launcher/signals.h"
#include "launcher/supervisor.h"
#include "launcher/waiting.h"
#include "parallel/process_group.h"

namespace polystrate {
namespace {

struct Command {
  const char* name;
  const char* summary;
  bool runs_model;
  bool one_process;  // several would write one output, or measure one another
  absl::Status (*run)(const Arguments& arguments);
};

constexpr Command kCommands[] = {
    {"generate", "text from prompts, offline", true, false, GenerateCommand},
    {"score", "log-probabilities of texts, offline", true, false, ScoreCommand},
    {"eval", "accuracy and perplexity on a task's questions, offline", true, false, EvalCommand},
    {"serve", "one rank of an engine behind gRPC", true, false, ServeCommand},
    {"launch", "all engines of a cluster file and their coordinator", false, true, LaunchCommand},
    {"coordinator", "one address in front of several engines", false, true, CoordinatorCommand},
    {"client", "a prompt to a running engine, the text as it streams", false, false, ClientCommand},
    {"plan", "how a model is cut and what fits, from config.json alone", false, false, PlanCommand},
    {"bench", "the papers' measurements, and a load on a running engine", true, true, BenchCommand},
    {"convert", "a model with fewer KV heads or layers from one that shares none", false, true,
     ConvertCommand},
};

void PrintUsage(std::FILE* out) {
  std::fprintf(
      out,
      "polystrate %s: inference for transformers that share key/value heads over layers\n\n"
      "usage: polystrate COMMAND [--flag value ...]    (polystrate COMMAND --help)\n\n",
      POLYSTRATE_VERSION);
  for (const Command& command : kCommands) {
    std::fprintf(out, "  %-11s %s\n", command.name, command.summary);
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
    case absl::StatusCode::kUnauthenticated:
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

// Rank 0 says why for all: mpirun ends every rank as soon as one exits with an error, so the others
// give it the time to. Where it fails too, its exit ends them in here; a rank that comes to the end
// failed alone, as one that cannot read the model on its machine, and says so itself.
void Report(const absl::Status& status, int rank) {
  const std::string message(status.message());
  if (rank == 0) {
    std::fprintf(stderr, "error: %s\n", message.c_str());
    return;
  }
  constexpr absl::Duration kRankZeroNeeds = absl::Seconds(3);
  std::signal(SIGTERM, SIG_DFL);
  absl::SleepFor(kRankZeroNeeds);
  std::fprintf(stderr, "error: rank %d: %s\n", rank, message.c_str());
}

absl::Status Run(const Command& command, const LaunchInfo& launch, const Arguments& arguments) {
  if (command.one_process && launch.world_size > 1) {
    return absl::InvalidArgumentError(absl::StrCat(command.name, " is done by one process, but ",
                                                   launch.world_size,
                                                   " were launched; start it without mpirun"));
  }
  return command.run(arguments);
}

int Main(int argc, char** argv) {
  const LaunchInfo launch = ReadLaunchInfo();
  const int rank = launch.rank;
  const bool prints = rank == 0;  // all ranks say the same; one is enough
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
    if (prints) PrintUsage(stderr);
    Report(
        absl::InvalidArgumentError(name.empty() ? std::string("a command is missing")
                                                : absl::StrCat("unknown command \"", name, "\"")),
        rank);
    return 2;
  }
  absl::Status status = Run(*command, launch, Arguments(argv + 2, argv + argc));
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    status.Update(absl::UnavailableError("cannot write to standard output"));
  }
  if (!status.ok()) Report(status, rank);
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
  if (name == "serve" || name == "coordinator") polystrate::InstallDrainSignals();
  polystrate::UnblockDrainSignals();
  // Before gRPC makes a thread, which would take the signals that a launcher waits for.
  if (name == "launch") polystrate::Supervisor::BlockSignals();
  return polystrate::Main(argc, argv);
}
