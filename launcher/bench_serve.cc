// polystrate bench serve: a load on a running engine, open or closed loop, reported in the words of
// `vllm bench serve`.

#include <cmath>
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "launcher/bench_serve_flags.h"
#include "launcher/load_arrivals.h"
#include "launcher/load_client.h"
#include "launcher/load_dataset.h"
#include "launcher/load_metrics.h"
#include "launcher/load_report.h"
#include "launcher/load_run.h"
#include "launcher/load_stages.h"
#include "launcher/progress.h"
#include "launcher/signals.h"
#include "openengine.grpc.pb.h"
#include "rpc/client.h"
#include "rpc/connector.h"
#include "rpc/grpc_status.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;
using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

constexpr absl::Duration kAnswerTimeout = absl::Seconds(30);  // of a unary call

absl::StatusOr<pb::ModelInfo> AskModelInfo(const std::shared_ptr<grpc::Channel>& channel,
                                           const std::string& model) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + kAnswerTimeout));
  pb::GetModelInfoRequest request;
  request.set_model(model);
  pb::ModelInfo info;
  const grpc::Status status = pb::Control::NewStub(channel)->GetModelInfo(&context, request, &info);
  if (!status.ok()) return FromGrpc(status);
  return info;
}

absl::StatusOr<int64_t> VocabularySize(const ServeBenchFlags& flags, const pb::ModelInfo& model) {
  if (flags.vocab_size.has_value()) return *flags.vocab_size;
  const auto& members = model.extra().fields();
  const auto found = members.find("vocab_size");
  if (found != members.end() && found->second.number_value() >= 1) {
    return static_cast<int64_t>(found->second.number_value());
  }
  if (!flags.dataset.random()) return 0;
  return absl::InvalidArgumentError(
      "the engine does not say how many token ids its model has; give --vocab_size");
}

absl::Status CheckFits(const ServeBenchFlags& flags, const pb::ModelInfo& model) {
  const std::optional<int64_t> longest = flags.dataset.LongestSequence();
  if (!longest.has_value() || !model.has_max_context_length()) return absl::OkStatus();
  if (*longest <= static_cast<int64_t>(model.max_context_length())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("prompts and answers take up to ", *longest, " tokens, but ", model.model_id(),
                   " has ", model.max_context_length(), "; ask for shorter ones"));
}

pb::GenerateRequest MakeRequest(const ServeBenchFlags& flags, const LoadPrompt& prompt,
                                uint64_t seed) {
  pb::GenerateRequest request;
  request.set_model(flags.model);
  if (prompt.text.empty()) {
    request.mutable_token_ids()->mutable_ids()->Assign(prompt.token_ids.begin(),
                                                       prompt.token_ids.end());
  } else {
    request.set_prompt(prompt.text);
  }
  request.mutable_sampling()->set_temperature(flags.temperature);
  request.mutable_sampling()->set_seed(seed);
  request.mutable_stopping()->set_max_tokens(static_cast<uint32_t>(prompt.max_tokens));
  if (flags.ignore_eos) request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

// Requests [0, num_prompts) are measured; the warm-ups come behind, so that none of the measured
// finds its prompt cached by one.
struct Load {
  std::vector<pb::GenerateRequest> warmups;
  std::vector<pb::GenerateRequest> requests;
  std::vector<int64_t> input_lens;
};

absl::StatusOr<Load> MakeLoad(const ServeBenchFlags& flags, const pb::ModelInfo& model) {
  RETURN_IF_ERROR(CheckFits(flags, model));
  ASSIGN_OR_RETURN(const int64_t vocab_size, VocabularySize(flags, model));
  const auto seed = static_cast<uint64_t>(flags.seed);
  ASSIGN_OR_RETURN(
      const std::vector<LoadPrompt> prompts,
      MakeDataset(flags.dataset, flags.num_prompts + flags.num_warmups, seed, vocab_size));
  Load load;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const bool warmup = static_cast<int64_t>(i) >= flags.num_prompts;
    (warmup ? load.warmups : load.requests).push_back(MakeRequest(flags, prompts[i], seed + i));
    if (!warmup) load.input_lens.push_back(static_cast<int64_t>(prompts[i].token_ids.size()));
  }
  return load;
}

absl::Status WarmUp(LoadClient& client, const ServeBenchFlags& flags, const Load& load) {
  LoadSchedule schedule;
  schedule.arrivals.assign(load.warmups.size(), 0.0);
  schedule.max_concurrency = flags.max_concurrency;
  const LoadRun run = RunLoad(client, load.warmups, schedule, [](double) {});
  if (run.interrupted) return absl::CancelledError("interrupted while warming up");
  for (const LoadOutcome& outcome : run.outcomes) {
    if (outcome.status.ok()) continue;
    return absl::Status(outcome.status.code(),
                        absl::StrCat("a warm-up request failed: ", outcome.status.message()));
  }
  return absl::OkStatus();
}

// To standard error: how often each reason was given, and a generator that was late.
void PrintWarnings(const LoadReport& report) {
  std::map<std::string, int64_t> reasons;
  for (const LoadOutcome& outcome : report.run.outcomes) {
    if (!outcome.status.ok()) ++reasons[outcome.status.ToString()];
  }
  constexpr size_t kShown = 5;
  size_t shown = 0;
  for (const auto& [reason, count] : reasons) {
    if (++shown > kShown) break;
    std::fprintf(stderr, "warning: %lld failed: %s\n", static_cast<long long>(count),
                 reason.c_str());
  }
  if (reasons.size() > kShown) {
    std::fprintf(stderr, "warning: %zu other reasons are in --save_result's \"errors\"\n",
                 reasons.size() - kShown);
  }
  constexpr int64_t kLateNs = 50'000'000;
  if (!std::isinf(report.setting.request_rate) && report.run.max_send_delay_ns > kLateNs) {
    std::fprintf(stderr,
                 "warning: a request was sent %.0f ms after its time: this machine does not keep "
                 "up with the rate\n",
                 static_cast<double>(report.run.max_send_delay_ns) * 1e-6);
  }
}

// What the user must know beyond the report: none completed, or not all were sent.
absl::Status Verdict(const LoadReport& report) {
  if (report.run.interrupted) {
    return absl::CancelledError(absl::StrCat("interrupted after ", report.run.outcomes.size(),
                                             " of ", report.setting.num_prompts, " requests"));
  }
  if (report.metrics.completed > 0) return absl::OkStatus();
  const absl::Status& first = report.run.outcomes[0].status;
  return absl::Status(first.code(), absl::StrCat("no request completed: ", first.message()));
}

absl::Status Measure(LoadClient& client, const Channels& channels, const ServeBenchFlags& flags,
                     LoadReport* report) {
  ASSIGN_OR_RETURN(const pb::ModelInfo model, AskModelInfo(channels[0], flags.model));
  ASSIGN_OR_RETURN(Load load, MakeLoad(flags, model));
  for (const auto& channel : channels) {  // so that no request's clock runs while one connects
    if (!channel->WaitForConnected(absl::ToChronoTime(absl::Now() + kAnswerTimeout))) {
      return absl::UnavailableError(absl::StrCat("cannot connect to ", flags.target));
    }
  }
  RETURN_IF_ERROR(WarmUp(client, flags, load));
  const auto seed = static_cast<uint64_t>(flags.seed);
  const LoadSchedule schedule{
      DrawArrivals(flags.num_prompts, {flags.request_rate, flags.burstiness, seed}),
      flags.max_concurrency};
  std::fprintf(stderr, "bench: %lld requests to %s (%s)\n",
               static_cast<long long>(flags.num_prompts), flags.target.c_str(),
               model.model_id().c_str());
  const std::vector<StageTime> before = AskStageTimes(channels[0]);
  Progress progress("requests", /*shown=*/true);
  report->run =
      RunLoad(client, load.requests, schedule, [&](double done) { progress.Update(done); });
  report->bubbles = BubbleShares(before, AskStageTimes(channels[0]));
  report->setting.model_id = model.model_id();
  report->setting.input_lens = std::move(load.input_lens);
  return absl::OkStatus();
}

absl::Status RunServeBench(const ServeBenchFlags& flags) {
  ASSIGN_OR_RETURN(const Connector connector, Connector::Create(flags.connection.options));
  EngineClient waiting(flags.target, connector);
  Channels channels;
  for (int64_t i = 0; i < flags.connections; ++i) {
    channels.push_back(connector.Connect(flags.target));
  }
  LoadClient client(channels);
  InstallDrainSignals();
  const SignalWatcher watcher([&](DrainSignal signal) {
    waiting.Cancel();
    client.Interrupt();
    std::signal(signal.number, SIG_DFL);  // who asks again means it
  });
  RETURN_IF_ERROR(waiting.WaitForServing(absl::Seconds(flags.ready_timeout)));
  LoadReport report;
  report.setting = {.target = flags.target,
                    .num_prompts = flags.num_prompts,
                    .request_rate = flags.request_rate,
                    .burstiness = flags.burstiness,
                    .max_concurrency = flags.max_concurrency,
                    .percents = flags.percents};
  RETURN_IF_ERROR(Measure(client, channels, flags, &report));
  report.metrics = ComputeLoadMetrics(report.run, flags.percents, flags.limits);
  std::fputs(report.Table().c_str(), stdout);
  PrintWarnings(report);
  if (flags.save_result.has_value()) {
    RETURN_IF_ERROR(WriteTextFile("save_result", *flags.save_result, report.JsonText() + "\n"));
  }
  return Verdict(report);
}

}  // namespace

absl::Status BenchServe(const Arguments& arguments) {
  FlagSet flag_set(
      "polystrate bench serve: a load on a running engine; throughput, latency and goodput.\n"
      "Sends requests at --request_rate whatever the answers do (open loop), or keeps "
      "--max_concurrency of them in flight (closed loop).");
  ServeBenchFlags flags;
  flags.AddTo(&flag_set);
  RETURN_IF_ERROR(flag_set.Parse(arguments));
  if (flag_set.help_requested()) {
    std::fputs(flag_set.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(flags.Check());
  return RunServeBench(flags);
}

}  // namespace polystrate
