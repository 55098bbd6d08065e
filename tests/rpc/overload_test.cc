// Clients that ask for too much, too late, read too little or go away, over a real socket.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/retry_delay.h"
#include "rpc/grpc_status.h"
#include "tests/rpc/served_engine.h"

namespace polystrate {
namespace {

constexpr absl::Duration kReaderTimeout = absl::Milliseconds(400);

RpcServerOptions Impatient() {
  RpcServerOptions rpc;
  rpc.reader_timeout = kReaderTimeout;
  return rpc;
}

// One sequence runs, two outputs may wait.
EngineOptions OneAtATime() {
  EngineOptions options;
  options.max_num_seqs = 1;
  options.max_queued_requests = 2;
  return options;
}

struct OpenStream {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<pb::GenerateResponse>> reader;

  // Goes away without reading on.
  ~OpenStream() {
    if (reader == nullptr) return;
    context.TryCancel();
    pb::GenerateResponse event;
    while (reader->Read(&event)) {
    }
    reader->Finish();
  }
  // Accepted when this returns.
  void Start(pb::Inference::Stub& stub, const pb::GenerateRequest& request) {
    reader = stub.Generate(&context, request);
    reader->WaitForInitialMetadata();
  }
  void ReadOne() {
    pb::GenerateResponse event;
    EXPECT_TRUE(reader->Read(&event));
  }
};

// Some of everything a token can carry, so that windows fill.
pb::GenerateRequest WordyRequest(uint32_t max_tokens) {
  pb::GenerateRequest request = GreedyRequest(max_tokens);
  request.mutable_response()->set_return_output_logprobs(true);
  request.mutable_response()->mutable_output_candidates()->set_top_n(20);
  return request;
}

TEST(RpcOverload, AFullQueueIsResourceExhaustedWithRetryInfo) {
  ServedEngine served(ServedModel(), 4096, {}, OneAtATime());
  served.Run();
  OpenStream running, queued[2];
  running.Start(served.inference(), GreedyRequest(32000));
  running.ReadOne();
  for (OpenStream& stream : queued) stream.Start(served.inference(), GreedyRequest(4));
  const Answer refused = Ask(served.inference(), GreedyRequest(4));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(refused.status.error_message().find("2 of 2 requests"), std::string::npos)
      << refused.status.error_message();
  const auto delay = RetryDelayOf(FromGrpc(refused.status));
  ASSERT_TRUE(delay.has_value());
  EXPECT_GE(*delay, absl::Seconds(1));
  EXPECT_LE(*delay, absl::Seconds(60));
  EXPECT_TRUE(refused.events.empty());
  // A text of megabytes is refused before anybody looks at it.
  pb::GenerateRequest text = GreedyRequest(4);
  text.set_prompt(std::string(3 << 20, 'a'));
  EXPECT_TRUE(RetryDelayOf(FromGrpc(Ask(served.inference(), text).status)).has_value());
  running.context.TryCancel();
  while (Ask(served.inference(), GreedyRequest(4)).status.error_code() ==
         grpc::StatusCode::RESOURCE_EXHAUSTED) {
  }
}

TEST(RpcOverload, APromptThatCannotFitIsRefusedByItsSize) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(4);
  request.set_prompt(std::string(3 << 20, 'a'));
  const Answer text = Ask(served.inference(), request);
  EXPECT_EQ(text.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(text.status.error_message().find("the prompt has 3145728 bytes; with a context of "
                                             "32768 tokens of at most"),
            std::string::npos)
      << text.status.error_message();
  // What no context could hold is not even read. It may not be tried again.
  request.set_prompt(std::string(30 << 20, 'a'));
  const Answer huge = Ask(served.inference(), request);
  EXPECT_EQ(huge.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(RetryDelayOf(FromGrpc(huge.status)).has_value());
  request.mutable_token_ids()->mutable_ids()->Resize(32770, 1);
  const Answer ids = Ask(served.inference(), request);
  EXPECT_EQ(ids.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(ids.status.error_message().find("32770 tokens; the context is 32768"),
            std::string::npos);
}

// Tokenised by threads of their own, and with the same result.
TEST(RpcOverload, LongTextsAreReadBesideTheStreams) {
  ServedEngine served;
  served.Run();
  std::string text;
  while (text.size() < 40'000) text += "To be, or not to be, that is the question. ";
  pb::GenerateRequest request = GreedyRequest(3);
  request.set_prompt(text);
  const auto expected = served.tokenizer().Encode(text);
  for (int i = 0; i < 3; ++i) {
    const Answer answer = Ask(served.inference(), request);
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.last().usage().prompt_tokens(), expected->size());
    EXPECT_EQ(answer.ids.size(), 3u);
  }
}

TEST(RpcOverload, MoreUrgentRequestsComeFirst) {
  ServedEngine served(ServedModel(), 4096, {}, OneAtATime());
  served.Run();
  const auto ask = [&](const std::string& priority, Answer* answer) {
    grpc::ClientContext context;
    context.AddMetadata("openengine-priority", priority);
    const auto stream = served.inference().Generate(&context, GreedyRequest(2000));
    ReadToEnd(&context, stream.get(), answer);
  };
  for (const char* wrong : {"", "high", "1.5", "2147483648", "1 2"}) {
    Answer answer;
    ask(wrong, &answer);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << wrong;
    EXPECT_NE(answer.status.error_message().find("openengine-priority"), std::string::npos);
  }
  OpenStream running;
  running.Start(served.inference(), GreedyRequest(32000));
  running.ReadOne();
  std::atomic<int> num_ended{0};
  std::atomic<int> place_of_urgent{0};
  std::thread patient([&] {
    Answer answer;
    ask("-3", &answer);
    ++num_ended;
  });
  while (served.engine().load().queued_requests < 1) absl::SleepFor(absl::Milliseconds(1));
  std::thread urgent([&] {
    Answer answer;
    ask("7", &answer);
    place_of_urgent = ++num_ended;
  });
  while (served.engine().load().queued_requests < 2) absl::SleepFor(absl::Milliseconds(1));
  running.context.TryCancel();
  patient.join();
  urgent.join();
  EXPECT_EQ(place_of_urgent, 1);
}

TEST(RpcOverload, ADeadlinePassesInTheQueue) {
  ServedEngine served(ServedModel(), 4096, {}, OneAtATime());
  served.Run();
  OpenStream running;
  running.Start(served.inference(), GreedyRequest(32000));
  running.ReadOne();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  Answer answer;
  const auto stream = served.inference().Generate(&context, GreedyRequest(4));
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(answer.events.empty());
  for (int i = 0; i < 2000 && served.engine().load().queued_requests > 0; ++i) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(served.engine().load().queued_requests, 0);
  running.ReadOne();  // the other goes on
}

TEST(RpcOverload, AStalledReaderLosesItsRequestAndIsToldWhenItReadsOn) {
  ServedEngine served(ServedModel(), 4096, Impatient());
  served.Run();
  // Of a request that still runs, and of one that has ended long before its reader reads.
  for (const uint32_t max_tokens : {32000u, 3000u}) {
    const auto stub = pb::Inference::NewStub(served.Connect(/*window=*/16384));
    OpenStream stalled;
    const absl::Time start = absl::Now();
    stalled.Start(*stub, WordyRequest(max_tokens));
    ASSERT_TRUE(served.BecomesIdle());  // the engine has given up the request
    absl::SleepFor(start + 1.5 * kReaderTimeout - absl::Now());
    Answer answer;
    ReadToEnd(&stalled.context, stalled.reader.get(), &answer);
    stalled.reader = nullptr;
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_NE(answer.status.error_message().find("the reader was stalled"), std::string::npos);
    EXPECT_TRUE(RetryDelayOf(FromGrpc(answer.status)).has_value());
    EXPECT_LT(answer.ids.size(), max_tokens);
    for (const pb::GenerateResponse& event : answer.events) EXPECT_TRUE(event.has_token());
  }
}

// Long before the time-out, when there is much that it does not read.
TEST(RpcOverload, WhatWaitsForAReaderIsBounded) {
  RpcServerOptions patient;
  patient.reader_timeout = absl::Minutes(10);
  ServedEngine served(ServedModel(), 4096, patient);
  served.Run();
  const auto stub = pb::Inference::NewStub(served.Connect(/*window=*/16384));
  pb::GenerateRequest request = WordyRequest(9'000);
  request.mutable_sampling()->set_num_sequences(2);  // about 10 MB
  OpenStream stalled;
  stalled.Start(*stub, request);
  ASSERT_TRUE(served.BecomesIdle());
  Answer answer;
  ReadToEnd(&stalled.context, stalled.reader.get(), &answer);
  stalled.reader = nullptr;
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_NE(answer.status.error_message().find("it let 8388608 bytes wait"), std::string::npos)
      << answer.status.error_message();
  EXPECT_LT(answer.ids.size(), 1000u);
}

TEST(RpcOverload, AReaderThatNeverReadsIsBrokenOff) {
  ServedEngine served(ServedModel(), 4096, Impatient());
  served.Run();
  const auto stub = pb::Inference::NewStub(served.Connect(/*window=*/16384));
  OpenStream stalled;
  stalled.Start(*stub, WordyRequest(32000));
  absl::SleepFor(4 * kReaderTimeout);
  Answer answer;
  ReadToEnd(&stalled.context, stalled.reader.get(), &answer);
  stalled.reader = nullptr;
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED)
      << answer.status.error_message();
  EXPECT_TRUE(served.BecomesIdle());
}

// It takes what its window holds in less than the time-out, again and again.
TEST(RpcOverload, ASlowReaderThatReadsIsLeftAlone) {
  ServedEngine served(ServedModel(), 4096, Impatient());
  served.Run();
  const auto stub = pb::Inference::NewStub(served.Connect(/*window=*/16384));
  OpenStream slow;
  slow.Start(*stub, WordyRequest(3000));
  pb::GenerateResponse event;
  size_t tokens = 0;
  const absl::Time until = absl::Now() + 4 * kReaderTimeout;
  while (slow.reader->Read(&event)) {
    tokens += event.token().tokens_size();
    if (absl::Now() < until) absl::SleepFor(kReaderTimeout / 100);
  }
  EXPECT_TRUE(slow.reader->Finish().ok());
  slow.reader = nullptr;
  EXPECT_EQ(tokens, 3000u);
}

// A quiet stream is not a stalled one: its reader waits for the engine.
TEST(RpcOverload, AReaderThatWaitsInTheQueueIsLeftAlone) {
  ServedEngine served(ServedModel(), 4096, Impatient(), OneAtATime());
  served.Run();
  OpenStream running;
  running.Start(served.inference(), GreedyRequest(32000));
  OpenStream queued;
  queued.Start(served.inference(), GreedyRequest(4));
  Answer drained;
  std::thread reader([&] { ReadToEnd(&running.context, running.reader.get(), &drained); });
  absl::SleepFor(3 * kReaderTimeout);
  running.context.TryCancel();
  reader.join();
  running.reader = nullptr;
  Answer answer;
  ReadToEnd(&queued.context, queued.reader.get(), &answer);
  queued.reader = nullptr;
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.ids.size(), 4u);
}

TEST(RpcOverload, AnIdIsFreeOnceTheClientHasSeenTheEnd) {
  ServedEngine served;
  served.Run();
  pb::GenerateRequest request = GreedyRequest(2);
  request.set_request_id("again");
  for (int i = 0; i < 300; ++i) {
    const Answer answer = Ask(served.inference(), request);
    ASSERT_TRUE(answer.status.ok()) << i << ": " << answer.status.error_message();
  }
}

// Many clients that connect and go at once, at any moment: before acceptance, while their text is
// tokenised, queued, running. Nothing of them stays and nobody else is harmed.
TEST(RpcOverload, AStormOfCancellationsLeavesNothing) {
  ServedEngine served;
  served.Run();
  OpenStream bystander;
  bystander.Start(served.inference(), GreedyRequest(32000));
  bystander.ReadOne();
  std::string text;
  while (text.size() < 30'000) text += "Now is the winter of our discontent. ";
  std::vector<std::thread> clients;
  std::atomic<int> strange{0};
  for (int t = 0; t < 16; ++t) {
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      const auto stub = pb::Inference::NewStub(served.Connect());
      for (int i = 0; i < 20; ++i) {
        pb::GenerateRequest request = GreedyRequest(1 + random() % 500);
        if (random() % 3 == 0) request.set_prompt(text);
        grpc::ClientContext context;
        const auto stream = stub->Generate(&context, request);
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        context.TryCancel();
        pb::GenerateResponse event;
        while (stream->Read(&event)) {
        }
        const grpc::StatusCode code = stream->Finish().error_code();
        strange += code != grpc::StatusCode::CANCELLED && code != grpc::StatusCode::OK;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(strange, 0);
  bystander.ReadOne();
  bystander.context.TryCancel();
  EXPECT_TRUE(served.BecomesIdle());
  EXPECT_EQ(Ask(served.inference(), GreedyRequest(5)).ids.size(), 5u);
}

}  // namespace
}  // namespace polystrate
