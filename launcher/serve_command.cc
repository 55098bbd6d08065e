#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/worker.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/flags.h"
#include "launcher/offline.h"
#include "launcher/rank_session.h"
#include "launcher/signals.h"
#include "rpc/metrics_server.h"
#include "rpc/request_log.h"
#include "rpc/server.h"

namespace polystrate {
namespace {

struct ServeFlags {
  EngineFlags engine;
  std::string listen = "127.0.0.1:50051";
  int64_t drain_timeout = 30;
  int64_t max_queued_requests = 1024;
  std::optional<int64_t> max_queued_tokens;
  int64_t reader_timeout = 30;
  RpcServerOptions rpc;
  std::string metrics_listen;
  std::string request_log;

  void AddTo(FlagSet* flags) {
    engine.AddTo(flags);
    flags->Add("listen", &listen, "HOST:PORT of rank 0's gRPC server; port 0 takes a free one");
    flags->Add("drain_timeout", &drain_timeout, "seconds that running requests get to finish");
    flags->Add("tls_cert", &rpc.security.tls_cert,
               "TLS: PEM file of the server's certificate chain; read again when it changes");
    flags->Add("tls_key", &rpc.security.tls_key, "TLS: PEM file of its private key");
    flags->Add("tls_client_ca", &rpc.security.tls_client_ca,
               "mTLS: PEM file of whom a client's certificate must be signed by");
    flags->Add("api_key_file", &rpc.security.api_key_file,
               "file of the keys that clients may show, one a line; read again when it changes");
    flags->Add("max_queued_requests", &max_queued_requests,
               "outputs that may wait for their first step; more are refused with a retry delay");
    flags->Add("max_queued_tokens", &max_queued_tokens,
               "prompt tokens that may wait (default: max_queued_requests * "
               "max_num_batched_tokens)");
    flags->Add("reader_timeout", &reader_timeout,
               "seconds after which a client that takes no output is given up");
    flags->Add("max_message_bytes", &rpc.max_message_bytes, "of a request or an event, at most");
    flags->Add("metrics_listen", &metrics_listen,
               "HOST:PORT of GET /metrics for Prometheus, plain HTTP over IPv4 (default: none)");
    flags->Add("request_log", &request_log,
               "file that gets a line of JSON for every request, - for stderr (default: none)");
  }
};

// How long a client may take to read the end of its stream once the engine has stopped.
constexpr absl::Duration kLastReads = absl::Seconds(5);

// How long after --drain_timeout a drain may still take: the steps under way and the last reads. A
// rank that hangs would keep all others waiting for ever; mpirun ends them when rank 0 dies.
constexpr int64_t kDrainGraceSeconds = 30;

// Rank 0: the engine and its door.
class Frontend {
 public:
  absl::Status Open(const ServeFlags& flags, const EngineSetup& setup) {
    RETURN_IF_ERROR(CheckTimelinePath(flags.engine));
    ASSIGN_OR_RETURN(tokenizer_, LoadTokenizer(flags.engine.model.model));
    engine_ = std::make_unique<Engine>(setup.engine, tokenizer_.get());
    ASSIGN_OR_RETURN(log_, RequestLog::Open(flags.request_log));
    server_ = std::make_unique<RpcServer>(*engine_, log_.get());
    RpcServerOptions rpc = flags.rpc;
    rpc.reader_timeout = absl::Seconds(flags.reader_timeout);
    RETURN_IF_ERROR(server_->Start(flags.listen, rpc));
    if (!flags.metrics_listen.empty()) RETURN_IF_ERROR(ServeMetrics(flags.metrics_listen));
    drain_timeout_ = absl::Seconds(flags.drain_timeout);
    watcher_ = std::make_unique<SignalWatcher>([this](int number) { Drain(number); });
    return absl::OkStatus();
  }

  void Serve(RankSession& session) {
    server_->SetServing(true);
    if (draining_) server_->SetServing(false);  // the signal came while the weights were read
    engine_->Run(session.control(), session.stage());
    server_->Shutdown(absl::Now() + kLastReads);
    std::fprintf(stderr, "serve: drained\n");
  }

  int port() const { return server_->port(); }

 private:
  absl::Status ServeMetrics(const std::string& address) {
    ASSIGN_OR_RETURN(
        metrics_, MetricsServer::Start(address, [this] { return TakeMetrics(*engine_, *log_); }));
    std::fprintf(stderr, "serve: metrics on %s (port %d)\n", address.c_str(), metrics_->port());
    return absl::OkStatus();
  }

  // A second signal means now.
  void Drain(int number) {
    const absl::Duration timeout = draining_.exchange(true) ? absl::ZeroDuration() : drain_timeout_;
    std::fprintf(stderr, "serve: signal %d, draining for at most %s\n", number,
                 absl::FormatDuration(timeout).c_str());
    const int64_t seconds = std::min<int64_t>(absl::ToInt64Seconds(timeout), INT_MAX);
    alarm(static_cast<unsigned>(seconds + kDrainGraceSeconds));  // SIGALRM ends this process
    server_->SetServing(false);
    engine_->BeginDrain(timeout);
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<RequestLog> log_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<MetricsServer> metrics_;
  std::atomic<bool> draining_{false};
  absl::Duration drain_timeout_;
  std::unique_ptr<SignalWatcher> watcher_;  // last: it calls the others
};

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

absl::Status CheckFlags(const ServeFlags& flags) {
  if (flags.drain_timeout < 0) {
    return absl::InvalidArgumentError("--drain_timeout must not be negative");
  }
  constexpr int64_t kMost = int64_t{1} << 32;
  struct Bound {
    const char* flag;
    int64_t value;
    int64_t most;
  };
  for (const Bound& bound : {Bound{"max_queued_requests", flags.max_queued_requests, kMost},
                             Bound{"max_queued_tokens", flags.max_queued_tokens.value_or(1), kMost},
                             Bound{"reader_timeout", flags.reader_timeout, 86400}}) {
    if (bound.value >= 1 && bound.value <= bound.most) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", bound.flag, " is ", bound.value,
                                                   "; it must be in [1, ", bound.most, "]"));
  }
  return absl::OkStatus();
}

absl::Status RunServe(const ServeFlags& flags) {
  ASSIGN_OR_RETURN(EngineSetup setup, SetUpEngine(flags.engine));
  setup.engine.max_queued_requests = flags.max_queued_requests;
  // Each of them may have a step's tokens.
  setup.engine.max_queued_tokens = flags.max_queued_tokens.value_or(
      flags.max_queued_requests * setup.engine.max_num_batched_tokens);
  ASSIGN_OR_RETURN(const auto session, RankSession::Start(flags.engine, setup));
  if (session->first() && !setup.model.config.warning.empty()) {
    std::fprintf(stderr, "warning: %s\n", setup.model.config.warning.c_str());
  }
  Frontend frontend;
  absl::Status opened = absl::OkStatus();
  if (session->first()) opened = frontend.Open(flags, setup);
  RETURN_IF_ERROR(session->control().Agree(opened));
  RETURN_IF_ERROR(session->Load(flags.engine.model.model, setup));
  if (session->first()) {
    PrintServing(setup, flags.listen, frontend.port());
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
      "now.");
  flags.AddTo(&set);
  RETURN_IF_ERROR(set.Parse(arguments));
  if (set.help_requested()) {
    std::fputs(set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckFlags(flags));
  return RunServe(flags);
}

}  // namespace polystrate
