#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/status.h"
#include "launcher/commands.h"
#include "launcher/connection_flags.h"
#include "launcher/flags.h"
#include "launcher/sampling_flags.h"
#include "launcher/signals.h"
#include "openengine.grpc.pb.h"
#include "rpc/client.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

struct ClientFlags {
  std::string target = "127.0.0.1:50051";
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_ids;
  std::string model;
  std::string request_id;
  double ready_timeout = 60.0;
  ConnectionFlags connection;
  SamplingFlags sampling;

  void AddTo(FlagSet* flags) {
    flags->Add("target", &target, "HOST:PORT of the engine");
    flags->Add("prompt", &prompt, "the text to go on from");
    flags->Add("prompt_ids", &prompt_ids, "the same as token ids, as 1,2,3");
    flags->Add("model", &model, "fails unless the engine serves this model");
    flags->Add("request_id", &request_id, "the request's name on the engine (default: a new one)");
    flags->Add("ready_timeout", &ready_timeout, "seconds to wait until the engine serves");
    connection.AddTo(flags);
    sampling.AddTo(flags);
  }
};

absl::Status SetPrompt(const ClientFlags& flags, pb::GenerateRequest* request) {
  if (flags.prompt.has_value() == flags.prompt_ids.has_value()) {
    return absl::InvalidArgumentError("give one of --prompt and --prompt_ids");
  }
  if (flags.prompt.has_value()) {
    request->set_prompt(*flags.prompt);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::vector<int> ids, ParseIntList("prompt_ids", *flags.prompt_ids));
  for (const int id : ids) {
    if (id < 0)
      return absl::InvalidArgumentError(absl::StrCat("--prompt_ids: ", id, " is below 0"));
    request->mutable_token_ids()->add_ids(static_cast<uint32_t>(id));
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::GenerateRequest> MakeRequest(const ClientFlags& flags) {
  pb::GenerateRequest request;
  request.set_request_id(flags.request_id);
  request.set_model(flags.model);
  RETURN_IF_ERROR(SetPrompt(flags, &request));
  RETURN_IF_ERROR(flags.sampling.Fill(&request));
  return request;
}

// Text to standard output as it comes (of several outputs, at the end: as they come they mix),
// figures to standard error.
class StreamPrinter {
 public:
  explicit StreamPrinter(uint32_t num_outputs) : outputs_(num_outputs) {}

  void Print(const pb::GenerateResponse& event) {
    answered_ = true;
    if (event.has_token()) PrintTokens(event.token());
    if (event.has_finished()) reason_ = event.finished().reason();
    if (event.has_usage()) usage_ = event.usage();
  }

  void PrintOutputs() const {
    if (outputs_.size() < 2 || !answered_) return;
    for (size_t i = 0; i < outputs_.size(); ++i) {
      std::printf("[%zu] ", i);
      std::fwrite(outputs_[i].data(), 1, outputs_[i].size(), stdout);
      std::printf("\n");
    }
  }

  void PrintFigures() const {
    const char* reason = reason_ == pb::FINISH_REASON_STOP        ? "stop"
                         : reason_ == pb::FINISH_REASON_LENGTH    ? "length"
                         : reason_ == pb::FINISH_REASON_CANCELLED ? "cancelled"
                                                                  : "unknown";
    std::string figures =
        absl::StrFormat("\nprompt %d tokens, generated %d tokens, finish reason %s\n",
                        usage_.prompt_tokens(), usage_.completion_tokens(), reason);
    if (num_tokens_ > 0) {
      absl::StrAppendFormat(&figures, "time to first token %.1f ms, %.1f tokens/s in all",
                            absl::ToDoubleMilliseconds(first_ - start_),
                            num_tokens_ / absl::ToDoubleSeconds(last_ - start_));
    }
    // From the first event on: what streaming runs at, whatever the prompt took. A fast engine's
    // whole answer may come in one event.
    if (num_tokens_ > num_first_ && last_ > first_) {
      absl::StrAppendFormat(&figures, ", %.1f tokens/s after the first",
                            (num_tokens_ - num_first_) / absl::ToDoubleSeconds(last_ - first_));
    }
    std::fprintf(stderr, "%s\n", figures.c_str());
  }

 private:
  void PrintTokens(const pb::TokenOutput& output) {
    last_ = absl::Now();
    if (num_tokens_ == 0) {
      first_ = last_;
      num_first_ = output.tokens_size();
    }
    num_tokens_ += output.tokens_size();
    if (outputs_.size() > 1) {
      if (output.output_index() < outputs_.size()) outputs_[output.output_index()] += output.text();
      return;
    }
    std::fwrite(output.text().data(), 1, output.text().size(), stdout);
    std::fflush(stdout);
  }

  std::vector<std::string> outputs_;  // texts, when there are several
  bool answered_ = false;             // false: the request was refused
  const absl::Time start_ = absl::Now();
  absl::Time first_;
  absl::Time last_;
  int num_first_ = 0;  // tokens of the first event
  int num_tokens_ = 0;
  pb::FinishReason reason_ = pb::FINISH_REASON_UNSPECIFIED;
  pb::Usage usage_;
};

absl::Status RunClient(const ClientFlags& flags, const pb::GenerateRequest& request) {
  ASSIGN_OR_RETURN(Connector connector, Connector::Create(flags.connection.options));
  EngineClient client(flags.target, std::move(connector));
  InstallDrainSignals();
  const SignalWatcher watcher([&client](DrainSignal signal) {
    client.Cancel();
    std::signal(signal.number, SIG_DFL);  // who asks again means it
  });
  RETURN_IF_ERROR(client.WaitForServing(absl::Seconds(flags.ready_timeout)));
  StreamPrinter printer(request.sampling().num_sequences());
  absl::Status status = client.Generate(
      request, [&printer](const pb::GenerateResponse& event) { printer.Print(event); });
  printer.PrintOutputs();
  if (status.ok()) printer.PrintFigures();
  return status;
}

}  // namespace

absl::Status ClientCommand(const Arguments& arguments) {
  FlagSet flag_set(
      "polystrate client: sends a prompt to an engine and prints the text as it streams");
  ClientFlags flags;
  flags.AddTo(&flag_set);
  RETURN_IF_ERROR(flag_set.Parse(arguments));
  if (flag_set.help_requested()) {
    std::printf("%s", flag_set.Help().c_str());
    return absl::OkStatus();
  }
  if (!(flags.ready_timeout >= 0.0)) {
    return absl::InvalidArgumentError("--ready_timeout takes seconds, at least 0");
  }
  RETURN_IF_ERROR(CheckTarget(flags.target));
  ASSIGN_OR_RETURN(const pb::GenerateRequest request, MakeRequest(flags));
  return RunClient(flags, request);
}

}  // namespace polystrate
