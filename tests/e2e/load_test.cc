// 256 clients at once with everything that clients do: they ask for one word or for hundreds, read
// to the end, cancel, let their deadline pass, or lose their connection. Nothing is lost, nothing
// stays.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/retry_delay.h"
#include "grpcpp/create_channel_posix.h"
#include "rpc/grpc_status.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/full_length.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

constexpr int kClients = 256;

// What a client does with its call.
enum Manner { kReads, kCancels, kHasADeadline, kLosesItsConnection, kNumManners };
constexpr const char* kManners[] = {"read to the end", "cancelled", "had a deadline",
                                    "lost the connection"};

// How calls ended, by what their clients did.
struct Tally {
  std::array<std::atomic<int64_t>, kNumManners> calls{};
  std::array<std::atomic<int64_t>, kNumManners>
      finished{};                   // with GenerationFinished of each output
  std::atomic<int64_t> refused{0};  // RESOURCE_EXHAUSTED, to come back
  std::atomic<int64_t> tokens{0};
};

// A connection of its own, which can be torn.
class Line {
 public:
  explicit Line(int port) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    own_fd_ = dup(fd_);
    channel_ = grpc::CreateInsecureChannelFromFd("engine", fd_);  // takes fd_
  }
  ~Line() { close(own_fd_); }
  void Tear() { shutdown(own_fd_, SHUT_RDWR); }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  int fd_;
  int own_fd_;
  std::shared_ptr<grpc::Channel> channel_;
};

class Client {
 public:
  Client(const std::string& address, uint64_t seed, Tally* tally)
      : random_(seed), tally_(tally), port_(std::stoi(address.substr(address.find(':') + 1))) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_ = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }

  void CallUntil(absl::Time end) {
    while (absl::Now() < end) Call(static_cast<Manner>(Uniform(0, kNumManners - 1)));
  }

 private:
  int64_t Uniform(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random_);
  }

  pb::GenerateRequest RandomRequest() {
    pb::GenerateRequest request;
    if (Uniform(0, 1) == 0) {
      const int64_t length = Uniform(1, 150);
      for (int64_t i = 0; i < length; ++i) {
        request.mutable_token_ids()->add_ids(static_cast<uint32_t>(Uniform(0, 1023)));
      }
    } else {
      for (int64_t i = Uniform(1, 40); i > 0; --i) request.mutable_prompt()->append("My lord, ");
    }
    pb::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_temperature(Uniform(0, 2) * 0.5);
    if (Uniform(0, 3) == 0) sampling.set_num_sequences(static_cast<uint32_t>(Uniform(2, 4)));
    if (Uniform(0, 3) == 0) sampling.set_repetition_penalty(1.2);
    pb::StoppingOptions& stopping = *request.mutable_stopping();
    stopping.set_max_tokens(
        static_cast<uint32_t>(Uniform(0, 3) == 0 ? Uniform(100, 400) : Uniform(1, 40)));
    stopping.set_ignore_eos(Uniform(0, 1) == 0);
    if (Uniform(0, 3) == 0) stopping.add_conditions()->set_stop_text("the");
    if (Uniform(0, 3) == 0) {
      request.mutable_response()->set_return_output_logprobs(true);
      request.mutable_response()->mutable_output_candidates()->set_top_n(5);
    }
    return request;
  }

  void Call(Manner manner) {
    const pb::GenerateRequest request = RandomRequest();
    ++tally_->calls[manner];
    grpc::ClientContext context;
    context.AddMetadata("openengine-priority", absl::StrCat(Uniform(-1, 1)));
    // With hundreds of connections at once gRPC 1.51's client takes one that is under way for
    // failed now and then, as something else sets errno in between.
    context.set_wait_for_ready(true);
    const bool late = manner == kHasADeadline;
    context.set_deadline(absl::ToChronoTime(
        absl::Now() + (late ? absl::Milliseconds(Uniform(1, 2000)) : absl::Seconds(120))));
    std::unique_ptr<Line> line;
    if (manner == kLosesItsConnection) line = std::make_unique<Line>(port_);
    const auto stub = pb::Inference::NewStub(line == nullptr ? channel_ : line->channel());
    const auto stream = stub->Generate(&context, request);

    const int64_t events_until_end = Uniform(0, 10);
    int64_t num_events = 0;
    uint32_t num_ends = 0;
    uint32_t num_tokens = 0;
    bool ended = false;
    pb::GenerateResponse event;
    while (true) {
      if (num_events++ == events_until_end) {
        if (manner == kCancels) context.TryCancel();
        if (manner == kLosesItsConnection) line->Tear();
      }
      if (!stream->Read(&event)) break;
      EXPECT_FALSE(ended) << "an event after the last";
      EXPECT_FALSE(event.has_error()) << event.error().message();
      num_tokens += static_cast<uint32_t>(event.token().tokens_size());
      num_ends += event.has_finished() ? 1 : 0;
      ended = event.has_usage();
      EXPECT_TRUE(!ended || event.usage().completion_tokens() == num_tokens) << num_tokens;
    }
    tally_->tokens += num_tokens;
    const uint32_t outputs = std::max<uint32_t>(request.sampling().num_sequences(), 1);
    Judge(manner, stream->Finish(), num_events, ended && num_ends == outputs);
  }

  // A stream ends whole and OK, or with the one status that is due.
  void Judge(Manner manner, const grpc::Status& status, int64_t num_reads, bool whole) {
    if (status.ok()) {
      EXPECT_TRUE(whole) << kManners[manner];
      ++tally_->finished[manner];
      return;
    }
    if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
      EXPECT_TRUE(RetryDelayOf(FromGrpc(status)).has_value()) << status.error_message();
      EXPECT_EQ(num_reads, 1) << status.error_message();
      ++tally_->refused;
      absl::SleepFor(absl::Milliseconds(Uniform(20, 200)));
      return;
    }
    constexpr grpc::StatusCode kDue[] = {grpc::StatusCode::OK, grpc::StatusCode::CANCELLED,
                                         grpc::StatusCode::DEADLINE_EXCEEDED,
                                         grpc::StatusCode::UNAVAILABLE};
    EXPECT_EQ(status.error_code(), kDue[manner])
        << kManners[manner] << ": " << status.error_message();
    EXPECT_FALSE(whole && manner != kLosesItsConnection && manner != kCancels) << kManners[manner];
  }

  std::mt19937_64 random_;
  Tally* const tally_;
  const int port_;
  std::shared_ptr<grpc::Channel> channel_;
};

void CallFromAll(const std::string& address, absl::Duration duration, uint64_t seed, Tally* tally) {
  const absl::Time end = absl::Now() + duration;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([=] { Client(address, seed + i, tally).CallUntil(end); });
  }
  for (std::thread& thread : threads) thread.join();
}

// Resident KiB of each rank's process, which has memory to itself but for its text.
std::vector<int64_t> ResidentMemory(const std::string& address) {
  std::vector<int64_t> kib;
  for (const pid_t pid : ProcessesWith(absl::StrCat("--listen ", address))) {
    const std::string status = ReadFile(absl::StrCat("/proc/", pid, "/status"));
    if (!absl::StartsWith(status, "Name:\tpolystrate\n")) continue;  // mpirun
    const size_t at = status.find("RssAnon:");
    EXPECT_NE(at, std::string::npos);
    kib.push_back(std::stoll(status.substr(at + 8)));
  }
  return kib;
}

void Load(int tp_size, int pp_size) {
  ServedRanksOptions options;
  options.tp_size = tp_size;
  options.pp_size = pp_size;
  options.model_dir = SourceFile("models/demo");
  // Fewer places than clients, and blocks for part of what runs: refusals and preemptions.
  options.flags = {"--max_queued_requests", "200", "--kv_memory", "2097152", "--threads", "1"};
  // oneDNN keeps what it has prepared for up to 1,024 shapes, 50 KiB each, and meets new ones for
  // minutes. With fewer a leak of ours shows.
  setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16", /*replace=*/1);
  ServedRanks engine(options);

  Tally warm_up, tally;
  CallFromAll(engine.address(), absl::Seconds(Length(3, 20)), 1, &warm_up);
  ASSERT_TRUE(engine.BecomesIdle());
  const std::vector<int64_t> before = ResidentMemory(engine.address());
  CallFromAll(engine.address(), absl::Seconds(Length(6, 200)), 1'000'000, &tally);
  ASSERT_TRUE(engine.BecomesIdle());
  const std::vector<int64_t> after = ResidentMemory(engine.address());

  int64_t calls = 0;
  for (int manner = 0; manner < kNumManners; ++manner) {
    calls += tally.calls[manner];
    std::printf("%s: %lld calls, %lld of them finished first\n", kManners[manner],
                static_cast<long long>(tally.calls[manner]),
                static_cast<long long>(tally.finished[manner]));
    EXPECT_GT(tally.calls[manner], 0);
    EXPECT_GT(tally.finished[manner], 0);
  }
  std::printf("refused: %lld; tokens: %lld; calls: %lld\n", static_cast<long long>(tally.refused),
              static_cast<long long>(tally.tokens), static_cast<long long>(calls));
  ASSERT_EQ(before.size(), static_cast<size_t>(tp_size * pp_size));
  ASSERT_EQ(after.size(), before.size());
  for (size_t rank = 0; rank < before.size(); ++rank) {
    std::printf("resident memory of rank %zu: %lld KiB, then %lld KiB\n", rank,
                static_cast<long long>(before[rank]), static_cast<long long>(after[rank]));
    // All ranks swing together by 6 MiB, up and down (oneDNN is the suspect). At full length a leak
    // of a kilobyte in each call would be three times what is allowed here.
    EXPECT_LE(after[rank], before[rank] + (16 << 10));
  }
}

TEST(Load, TwoStages) { Load(1, 2); }
TEST(Load, TwoStagesOfTwoRanks) { Load(2, 2); }

}  // namespace
}  // namespace polystrate
