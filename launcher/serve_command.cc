#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "engine/worker.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/frontend.h"
#include "launcher/rank_session.h"
#include "parallel/process_group.h"
#include "parallel/rank_monitor.h"

namespace polystrate {
namespace {

// Ranks that do not find each other would wait for ever: MPI knows no time-out.
class JoinGuard {
 public:
  // Besides what NCCL may take.
  explicit JoinGuard(absl::Duration nccl_timeout)
      : thread_([this, timeout = absl::Minutes(2) + nccl_timeout] {
          if (joined_.WaitForNotificationWithTimeout(timeout)) return;
          std::fprintf(stderr, "error: the ranks have not found each other in %s\n",
                       absl::FormatDuration(timeout).c_str());
          _exit(kExitEngineLost);
        }) {}
  ~JoinGuard() {
    joined_.Notify();
    thread_.join();
  }

 private:
  absl::Notification joined_;
  std::thread thread_;
};

// All but rank 0 watch rank 0 alone. The first of them speaks for all, if it is there.
[[noreturn]] void OnRankZeroLost(const LostRank& lost, int rank) {
  absl::SleepFor(std::min((rank - 1) * absl::Milliseconds(100), absl::Seconds(2)));
  std::fprintf(stderr,
               "serve: lost rank 0 on %s, pid %lld; %s (says rank %d)\n"
               "serve: the engine is lost; exit code %d\n",
               lost.host.c_str(), static_cast<long long>(lost.pid), lost.how.c_str(), rank,
               kExitEngineLost);
  AbortJob(kExitEngineLost);
}

absl::StatusOr<std::unique_ptr<RankMonitor>> StartMonitor(const ServeFlags& flags,
                                                          RankSession& session,
                                                          Frontend& frontend) {
  MonitorOptions options;
  options.timeout = absl::Seconds(flags.rank_timeout);
  const int rank = session.topology().rank;
  options.on_lost = [rank](const LostRank& lost) { OnRankZeroLost(lost, rank); };
  RankTable* table = nullptr;
  if (session.first()) {
    table = &frontend.engine().ranks();
    options.on_lost = [&frontend](const LostRank& lost) { frontend.watchdog().OnLost(lost); };
    options.on_beat = [&frontend](absl::Duration passed) {
      return frontend.watchdog().OnBeat(passed);
    };
    options.on_end = [&frontend] { frontend.watchdog().OnEnd(); };
  }
  return RankMonitor::Start(session.topology(), session.control(), session.control().activity(),
                            table, options);
}

void PrintServing(const EngineSetup& setup, const std::string& listen, int port) {
  const ModelSetup& model = setup.model;
  std::string stages;
  for (const Stage& stage : model.stage_plan.stages) {
    absl::StrAppend(&stages, stages.empty() ? "" : ", ", "[", stage.first_layer, ", ",
                    stage.end_layer, ")");
  }
  std::fprintf(stderr,
               "serve: SERVING %s on %s (port %d): tp %d x pp %d, stages %s, %s, %lld KV blocks of "
               "%lld tokens, %lld KV bytes per token\n",
               setup.engine.model_id.c_str(), listen.c_str(), port, model.parallel.tp_size,
               model.parallel.pp_size, stages.c_str(), Name(model.dtype),
               static_cast<long long>(setup.engine.num_blocks),
               static_cast<long long>(setup.engine.block_size),
               static_cast<long long>(model.config.KvBytesPerToken(model.dtype)));
}

// And tells what the model's files have that is not as it should be.
void TakeTokenizerConfig(const std::string& model_dir, EngineSetup* setup) {
  std::vector<std::string> problems;
  if (!setup->model.config.warning.empty()) problems.push_back(setup->model.config.warning);
  setup->engine.tokenizer_config = ReadTokenizerConfig(model_dir, &problems);
  for (const std::string& problem : problems) {
    std::fprintf(stderr, "warning: %s\n", problem.c_str());
  }
}

absl::Status RunServe(const ServeFlags& flags) {
  ASSIGN_OR_RETURN(EngineSetup setup, SetUpEngine(flags.engine));
  setup.engine.max_queued_requests = flags.max_queued_requests;
  // Each of them may have a step's tokens.
  setup.engine.max_queued_tokens = flags.max_queued_tokens.value_or(
      flags.max_queued_requests * setup.engine.max_num_batched_tokens);
  setup.engine.drain_timeout = absl::Seconds(flags.drain_timeout);
  auto joining = std::make_unique<JoinGuard>(setup.nccl_timeout);
  ASSIGN_OR_RETURN(const auto session, RankSession::Start(flags.engine, setup));
  {
    const auto guard = session->GuardGroups(/*watchdog=*/nullptr);  // nobody is served yet
    RETURN_IF_ERROR(session->PrepareGpu(&setup));
  }
  if (session->first()) TakeTokenizerConfig(flags.engine.model.model, &setup);
  Frontend frontend;
  absl::Status opened = absl::OkStatus();
  if (session->first()) opened = frontend.Open(flags, setup);
  RETURN_IF_ERROR(session->control().Agree(opened));
  ASSIGN_OR_RETURN(const auto monitor, StartMonitor(flags, *session, frontend));
  const auto guard = session->GuardGroups(session->first() ? &frontend.watchdog() : nullptr);
  joining.reset();
  RETURN_IF_ERROR(session->Load(flags.engine.model.model, setup));
  if (session->first()) {
    if (frontend.server().SetServing(true)) {
      PrintServing(setup, flags.listen, frontend.server().port());
    }
    frontend.Serve(*session);
  } else {
    RunWorker(session->control(), session->stage());
  }
  return session->control().Agree(session->WriteTimeline());
}

}  // namespace

absl::Status ServeCommand(const Arguments& arguments) {
  ServeFlags flags;
  FlagSet set(
      "polystrate serve: one rank of an engine behind gRPC; alone or under mpirun -np TP*PP.\n"
      "SIGTERM or SIGINT at rank 0, or SIGUSR1 at mpirun, drains it; a second signal stops it "
      "now.\nExit code 75: the engine was lost, as by a rank that died or hung; start it again.");
  flags.AddTo(&set);
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(flags.Check());
  return RunServe(flags);
}

}  // namespace polystrate
