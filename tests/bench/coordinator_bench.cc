// What a coordinator costs: the time that it adds to a token, and the processor time that it takes
// for one, against talking to the engine directly. The engine computes nothing: it streams one
// token a message, each with the time at which it was sent, at a pace for each stream. Engine,
// coordinator and client are processes of their own; the coordinator is held to one core (CORE),
// the others to the rest if there are any.
//
//   coordinator_bench [seconds=3] [core=1]
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "kernels/core/check.h"
#include "launcher/load_client.h"
#include "rpc/connector.h"
#include "rpc/coordinator/coordinator_server.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

// --- The engine. ---

class PacedStream;

// Writes the next token of each stream when it is due.
class Pacer {
 public:
  Pacer() : thread_([this] { Run(); }) {}
  void Add(PacedStream* stream, int64_t due_ns) {
    absl::MutexLock lock(&mutex_);
    due_.push({due_ns, stream});
  }

 private:
  using Due = std::pair<int64_t, PacedStream*>;
  void Run();

  absl::Mutex mutex_;
  std::priority_queue<Due, std::vector<Due>, std::greater<Due>> due_;
  std::thread thread_;
};

class PacedStream final : public grpc::ServerWriteReactor<pb::GenerateResponse> {
 public:
  // max_tokens tokens, `seed` nanoseconds from one to the next; 0: as fast as they are taken.
  PacedStream(Pacer& pacer, const pb::GenerateRequest& request)
      : pacer_(pacer),
        left_(request.stopping().max_tokens()),
        pace_ns_(static_cast<int64_t>(request.sampling().seed())),
        due_ns_(SteadyNs() + static_cast<int64_t>(request.sampling().top_k()) * 1000) {
    event_.set_request_id(request.request_id());
    event_.mutable_token()->set_output_index(0);
    event_.mutable_token()->add_tokens()->set_token_id(4711);
    event_.mutable_token()->mutable_tokens(0)->set_token("0000000000000000");
    StartSendInitialMetadata();
  }
  void Write() {
    const std::string now = absl::StrCat(SteadyNs());
    event_.mutable_token()->mutable_tokens(0)->set_token(now);
    event_.mutable_token()->set_text(now);
    StartWrite(&event_);
  }
  void OnSendInitialMetadataDone(bool) override { Next(); }
  void OnWriteDone(bool ok) override {
    if (!ok || left_ == 0) return Finish(grpc::Status::OK);
    if (--left_ > 0) return Next();
    event_.mutable_finished()->set_reason(pb::FINISH_REASON_LENGTH);
    event_.mutable_usage()->set_prompt_tokens(1);
    StartWrite(&event_);
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (pace_ns_ == 0) return Write();
    due_ns_ += pace_ns_;
    pacer_.Add(this, due_ns_);
  }
  Pacer& pacer_;
  pb::GenerateResponse event_;
  uint32_t left_;
  const int64_t pace_ns_;
  int64_t due_ns_;
};

void Pacer::Run() {
  while (true) {
    std::vector<PacedStream*> now;
    int64_t next = SteadyNs() + 200'000;
    {
      absl::MutexLock lock(&mutex_);
      while (!due_.empty() && due_.top().first <= SteadyNs()) {
        now.push_back(due_.top().second);
        due_.pop();
      }
      if (!due_.empty()) next = std::min(next, due_.top().first);
    }
    for (PacedStream* stream : now) stream->Write();
    if (now.empty()) absl::SleepFor(absl::Nanoseconds(std::max<int64_t>(next - SteadyNs(), 1000)));
  }
}

class Inference final : public pb::Inference::CallbackService {
  grpc::ServerWriteReactor<pb::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const pb::GenerateRequest* request) override {
    context->AddInitialMetadata("openengine-request-id", "bench");
    return new PacedStream(pacer_, *request);
  }
  Pacer pacer_;
};

class Control final : public pb::Control::CallbackService {
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const pb::GetServerInfoRequest*,
                                          pb::ServerInfo* info) override {
    info->set_instance_id("bench");
    return Ok(context);
  }
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const pb::GetModelInfoRequest*,
                                         pb::ModelInfo* info) override {
    info->set_model_id("bench");
    return Ok(context);
  }
  grpc::ServerUnaryReactor* GetLoad(grpc::CallbackServerContext* context, const pb::GetLoadRequest*,
                                    pb::LoadInfo*) override {
    return Ok(context);
  }
  static grpc::ServerUnaryReactor* Ok(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

// --- Processes. ---

void RunOn(int core, bool inverse) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int i = 0; i < cores; ++i) {
    if ((i == core) != inverse || cores == 1) CPU_SET(i, &set);
  }
  sched_setaffinity(0, sizeof(set), &set);
}

struct Child {
  pid_t pid = 0;
  int port = 0;
};

// `serve` writes its port to the pipe and never returns.
template <typename Serve>
Child Fork(const Serve& serve) {
  int fds[2];
  CHECK_EQ(pipe(fds), 0);
  Child child;
  child.pid = fork();  // before this process has threads
  CHECK_GE(child.pid, 0);
  if (child.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    serve(fds[1]);
    std::exit(0);
  }
  CHECK_EQ(read(fds[0], &child.port, sizeof(int)), static_cast<ssize_t>(sizeof(int)));
  return child;
}

void Tell(int pipe, int port) {
  CHECK_EQ(write(pipe, &port, sizeof(port)), static_cast<ssize_t>(sizeof(port)));
}

void ServeEngine(int pipe, int core) {
  RunOn(core, /*inverse=*/true);
  Inference inference;
  Control control;
  int port = 0;
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&inference);
  builder.RegisterService(&control);
  const auto server = builder.BuildAndStart();
  Tell(pipe, port);
  server->Wait();
}

void ServeCoordinator(int pipe, int core, int engine) {
  RunOn(core, /*inverse=*/false);
  CoordinatorOptions options;
  options.listen = "127.0.0.1:0";
  options.engines = {absl::StrCat("127.0.0.1:", engine)};
  const auto server = CoordinatorServer::Start(options);
  CHECK(server.ok());
  while (!(*server)->serving()) absl::SleepFor(absl::Milliseconds(10));
  Tell(pipe, (*server)->port());
  while (true) absl::SleepFor(absl::Seconds(60));
}

double ProcessorSeconds(pid_t pid) {
  clockid_t clock;
  timespec time;
  CHECK_EQ(clock_getcpuclockid(pid, &clock), 0);
  CHECK_EQ(clock_gettime(clock, &time), 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// --- The client. ---

class Reader final : public grpc::ClientReadReactor<pb::GenerateResponse> {
 public:
  Reader(pb::Inference::Stub& stub, const pb::GenerateRequest& request) : request_(request) {
    stub.async()->Generate(&context_, &request_, this);
    StartRead(&event_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    int64_t sent = 0;
    if (event_.has_token() && absl::SimpleAtoi(event_.token().text(), &sent)) {
      delays_.push_back(1e-3 * static_cast<double>(SteadyNs() - sent));
    }
    StartRead(&event_);
  }
  void OnDone(const grpc::Status& status) override {
    CHECK(status.ok());
    done_ = true;
  }
  bool done() const { return done_; }
  const std::vector<double>& delays() const { return delays_; }  // microseconds, of each token

 private:
  const pb::GenerateRequest request_;
  grpc::ClientContext context_;
  pb::GenerateResponse event_;
  std::vector<double> delays_;
  std::atomic<bool> done_{false};
};

struct Run {
  double tokens_per_second = 0;
  double p50 = 0;  // microseconds from the engine's write to the client's read
  double p99 = 0;
};

Run Measure(int port, int streams, int64_t pace_ns, uint32_t tokens) {
  const auto channel = Connector().Connect(absl::StrCat("127.0.0.1:", port));
  const auto stub = pb::Inference::NewStub(channel);
  CHECK(channel->WaitForConnected(absl::ToChronoTime(absl::Now() + absl::Seconds(10))));
  pb::GenerateRequest request;
  request.mutable_stopping()->set_max_tokens(tokens);
  request.mutable_sampling()->set_seed(static_cast<uint64_t>(pace_ns));
  std::vector<std::unique_ptr<Reader>> readers;
  const int64_t begin = SteadyNs();
  for (int i = 0; i < streams; ++i) {
    // Evenly over the pace.
    request.mutable_sampling()->set_top_k(static_cast<int32_t>(pace_ns * i / streams / 1000));
    readers.push_back(std::make_unique<Reader>(*stub, request));
  }
  std::vector<double> delays;
  for (const auto& reader : readers) {
    while (!reader->done()) absl::SleepFor(absl::Milliseconds(1));
    delays.insert(delays.end(), reader->delays().begin(), reader->delays().end());
  }
  const double seconds = 1e-9 * static_cast<double>(SteadyNs() - begin);
  CHECK_EQ(delays.size(), static_cast<size_t>(streams) * tokens);
  std::sort(delays.begin(), delays.end());
  return {static_cast<double>(delays.size()) / seconds, delays[delays.size() / 2],
          delays[delays.size() * 99 / 100]};
}

int Main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 3.0;
  const int core = argc > 2 ? std::atoi(argv[2]) : 1;
  const Child engine = Fork([&](int pipe) { ServeEngine(pipe, core); });
  const Child coordinator = Fork([&](int pipe) { ServeCoordinator(pipe, core, engine.port); });
  RunOn(core, /*inverse=*/true);

  std::printf(
      "one token of each stream every 20 ms; delay from the engine's write to the client's "
      "read, us\n%8s %10s | %10s %10s | %10s %10s | %10s %10s | %12s %8s\n",
      "streams", "tokens/s", "direct p50", "p99", "routed p50", "p99", "added p50", "p99",
      "us of core", "core");
  constexpr int64_t kPace = 20'000'000;
  const auto tokens = static_cast<uint32_t>(seconds * 50);
  for (const int streams : {1, 16, 64, 128, 256, 400, 600}) {
    const Run direct = Measure(engine.port, streams, kPace, tokens);
    const double before = ProcessorSeconds(coordinator.pid);
    const Run routed = Measure(coordinator.port, streams, kPace, tokens);
    const double processor = ProcessorSeconds(coordinator.pid) - before;
    const double total = static_cast<double>(tokens) * streams;
    std::printf("%8d %10.0f | %10.1f %10.1f | %10.1f %10.1f | %10.1f %10.1f | %12.2f %7.0f%%\n",
                streams, routed.tokens_per_second, direct.p50, direct.p99, routed.p50, routed.p99,
                routed.p50 - direct.p50, routed.p99 - direct.p99, 1e6 * processor / total,
                100 * processor / (total / routed.tokens_per_second));
    std::fflush(stdout);
  }
  std::printf("\nas fast as they are read\n%8s %16s %16s %18s\n", "streams", "direct tokens/s",
              "routed tokens/s", "us of core a token");
  for (const int streams : {1, 16, 64, 256}) {
    const auto each = static_cast<uint32_t>(200'000 / streams);
    const Run direct = Measure(engine.port, streams, 0, each);
    const double before = ProcessorSeconds(coordinator.pid);
    const Run routed = Measure(coordinator.port, streams, 0, each);
    const double processor = ProcessorSeconds(coordinator.pid) - before;
    std::printf("%8d %16.0f %16.0f %18.2f\n", streams, direct.tokens_per_second,
                routed.tokens_per_second, 1e6 * processor / (static_cast<double>(each) * streams));
    std::fflush(stdout);
  }
  for (const Child& child : {coordinator, engine}) {
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
  }
  return 0;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) { return polystrate::Main(argc, argv); }
