// What `polystrate bench serve` itself can take: its client against a server that computes nothing
// and streams one token a message as fast as it is read. Prints messages a second, and processor
// time of the client alone per message: the first is a bound of client and server together, which
// share this machine, 1 / the second what one core of a client gets through. Then the same per
// request. A load whose tokens a second come near those figures measures the generator.
//
//   load_client_bench [tokens=400000]
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "kernels/core/check.h"
#include "launcher/load_metrics.h"
#include "launcher/load_run.h"
#include "rpc/connector.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

class Answer final : public grpc::ServerWriteReactor<pb::GenerateResponse> {
 public:
  explicit Answer(const pb::GenerateRequest& request) : left_(request.stopping().max_tokens()) {
    event_.set_request_id("0123456789abcdef");
    pb::TokenInfo& token = *event_.mutable_token()->add_tokens();
    event_.mutable_token()->set_output_index(0);
    event_.mutable_token()->set_text(" word");
    token.set_token_id(4711);
    token.set_token(" word");
    total_ = left_;
    StartWrite(&event_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok || left_ == 0) {
      Finish(grpc::Status::OK);
    } else if (--left_ > 0) {
      StartWrite(&event_);
    } else {
      event_.mutable_finished()->set_reason(pb::FINISH_REASON_LENGTH);
      event_.mutable_usage()->set_completion_tokens(total_);
      StartWrite(&event_);
    }
  }
  void OnDone() override { delete this; }

 private:
  pb::GenerateResponse event_;
  uint32_t left_;
  uint32_t total_ = 0;
};

class Service final : public pb::Inference::CallbackService {
  grpc::ServerWriteReactor<pb::GenerateResponse>* Generate(
      grpc::CallbackServerContext*, const pb::GenerateRequest* request) override {
    return new Answer(*request);
  }
};

// In a process of its own, so that its processor time is not the client's. Writes its port to
// `port_pipe` and serves until its parent is gone.
[[noreturn]] void Serve(int port_pipe) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  CHECK_EQ(write(port_pipe, &port, sizeof(port)), static_cast<ssize_t>(sizeof(port)));
  server->Wait();
  std::exit(0);
}

double ProcessorSeconds() {
  rusage usage;
  CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Speed {
  double per_second = 0;
  double client_us = 0;  // of processor time
};

// `tokens` a request; the figures are per token.
Speed Measure(int port, int connections, int64_t streams, int64_t requests, uint32_t tokens) {
  const std::string target = "127.0.0.1:" + std::to_string(port);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < connections; ++i) {
    channels.push_back(Connector().Connect(target));
    CHECK(channels.back()->WaitForConnected(absl::ToChronoTime(absl::InfiniteFuture())));
  }
  LoadClient client(channels);
  pb::GenerateRequest request;
  request.mutable_stopping()->set_max_tokens(tokens);
  const std::vector<pb::GenerateRequest> all(static_cast<size_t>(requests), request);
  const double before = ProcessorSeconds();
  const LoadRun run =
      RunLoad(client, all, {std::vector<double>(all.size(), 0.0), streams}, [](double) {});
  const double processor = ProcessorSeconds() - before;
  const LoadMetrics metrics = ComputeLoadMetrics(run, {}, std::nullopt);
  CHECK_EQ(metrics.completed, requests);
  CHECK_EQ(metrics.total_output_tokens, requests * tokens);
  const auto total = static_cast<double>(metrics.total_output_tokens);
  return {total / metrics.duration, processor / total * 1e6};
}

int Main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 400'000;
  int port_pipe[2];
  CHECK_EQ(pipe(port_pipe), 0);
  const pid_t server = fork();  // before gRPC has threads
  CHECK_GE(server, 0);
  if (server == 0) Serve(port_pipe[1]);
  int port = 0;
  CHECK_EQ(read(port_pipe[0], &port, sizeof(port)), static_cast<ssize_t>(sizeof(port)));

  constexpr uint32_t kLong = 100;
  std::printf("%-11s %8s %14s %16s %14s %16s\n", "connections", "streams", "tokens/s",
              "client us/token", "requests/s", "client us/request");
  for (const int connections : {1, 4}) {
    for (const int64_t streams : {1, 16, 64, 256, 1024}) {
      const Speed token = Measure(port, connections, streams, tokens / kLong, kLong);
      const Speed request = Measure(port, connections, streams, tokens / 20, 1);
      std::printf("%-11d %8lld %14.0f %16.2f %14.0f %16.2f\n", connections,
                  static_cast<long long>(streams), token.per_second, token.client_us,
                  request.per_second, request.client_us);
    }
  }
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) { return polystrate::Main(argc, argv); }
