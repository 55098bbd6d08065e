// What ends requests that an engine has accepted, besides their last token: several ranks, and
// clients. A case for each row of the behaviour that docs/serving.md promises; afterwards nothing
// is held and the engine serves as before.

#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/retry_delay.h"
#include "kernels/core/check.h"
#include "rpc/grpc_status.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/exposition.h"

namespace polystrate {
namespace {

using grpc::StatusCode;

// Of a request that has ended early; a step takes milliseconds.
constexpr absl::Duration kSoon = absl::Seconds(5);

// Goes on for as long as any of these tests.
pb::GenerateRequest Endless() { return GreedyRequest(32000); }

pb::GenerateRequest PromptOf(const std::vector<uint32_t>& ids, uint32_t max_tokens) {
  pb::GenerateRequest request = GreedyRequest(max_tokens);
  request.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  return request;
}

TEST(Behaviour, DeadlinePassedInQueueIsDeadlineExceeded) {
  ServedRanksOptions options;
  options.flags = {"--max_num_seqs", "1"};
  ServedRanks engine(options);
  OpenStream running(engine, Endless());
  running.WaitForTokens();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  Answer answer;
  const auto stream = engine.inference().Generate(&context, GreedyRequest(5));
  ReadToEnd(&context, stream.get(), &answer);
  EXPECT_EQ(answer.status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(answer.events.empty());
  const absl::Time soon = absl::Now() + kSoon;
  while (engine.Load().queued_requests() > 0 && absl::Now() < soon) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(engine.Load().queued_requests(), 0u);
  EXPECT_EQ(engine.Load().running_requests(), 1u);  // the one that was running still is
  running.Cancel();
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
}

TEST(Behaviour, DeadlinePassedInDecodeIsDeadlineExceeded) {
  ServedRanks engine;
  OpenStream stream(engine, Endless(), absl::Seconds(1));
  stream.WaitForTokens();
  const Answer answer = stream.Rest();
  EXPECT_EQ(answer.status.error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GT(answer.ids.size(), 0u);
  EXPECT_LT(answer.ids.size(), 32000u);
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
  EXPECT_EQ(Ask(engine.inference(), GreedyRequest(5)).ids.size(), 5u);
}

TEST(Behaviour, ClientCancelIsCancelled) {
  ServedRanks engine;
  OpenStream other(engine, Endless());
  OpenStream stream(engine, Endless());
  other.WaitForTokens();
  stream.WaitForTokens();
  stream.Cancel();
  EXPECT_EQ(stream.Rest().status.error_code(), StatusCode::CANCELLED);
  const absl::Time soon = absl::Now() + kSoon;
  while (engine.Load().running_requests() > 1 && absl::Now() < soon) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(engine.Load().running_requests(), 1u);  // the other is not disturbed
  other.Cancel();
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
}

TEST(Behaviour, ClientDisconnectIsACancel) {
  ServedRanks engine;
  Process client(Polystrate({"client", "--target", engine.address(), "--prompt_ids", "5,6,7",
                             "--max_tokens", "32000", "--ignore_eos"}));
  const absl::Time soon = absl::Now() + absl::Seconds(20);
  while (engine.Load().running_requests() == 0 && absl::Now() < soon) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_EQ(engine.Load().running_requests(), 1u) << client.Err();
  client.Signal(SIGKILL);
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
}

// The engine goes on while a client reads nothing, but not for long.
TEST(Behaviour, ReaderStalledIsResourceExhausted) {
  ServedRanksOptions options;
  options.flags = {"--reader_timeout", "1"};
  ServedRanks engine(options);
  pb::GenerateRequest wordy = Endless();
  wordy.mutable_response()->set_return_output_logprobs(true);
  wordy.mutable_response()->mutable_output_candidates()->set_top_n(20);
  const auto stub = pb::Inference::NewStub(ConnectTo(engine.address(), /*window=*/16384));
  OpenStream stream(*stub, wordy);
  stream.WaitForTokens();
  EXPECT_EQ(engine.Load().running_requests(), 1u);
  ASSERT_TRUE(engine.BecomesIdle());  // its request has been given up
  const Answer answer = stream.Rest();
  EXPECT_EQ(answer.status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(RetryDelayOf(FromGrpc(answer.status)).has_value());
  EXPECT_LT(answer.ids.size(), 32000u);
  EXPECT_TRUE(engine.Serving());
  EXPECT_EQ(Ask(engine.inference(), GreedyRequest(5)).ids.size(), 5u);
}

// Four requests want twice the pool between them.
TEST(Behaviour, CacheFullInDecodePreemptsUnseen) {
  ServedRanksOptions options;
  options.tp_size = 2;
  const int metrics_port = FreePort();
  options.flags = {"--kv_memory", std::to_string(32 * kBlockBytes / 2), "--metrics_listen",
                   absl::StrCat("127.0.0.1:", metrics_port)};
  const auto num_preemptions = [metrics_port] {
    return ParseExposition(*Scrape(metrics_port))->Value("vllm:num_preemptions_total");
  };
  ServedRanks engine(options);
  ASSERT_EQ(engine.Load().total_kv_blocks(), 32u);
  std::vector<pb::GenerateRequest> requests;
  std::vector<Answer> alone;
  for (uint32_t i = 0; i < 4; ++i) {
    requests.push_back(PromptOf({11 + i, 7, 301}, 300));
    if (i % 2 == 1) {
      requests.back().mutable_sampling()->set_temperature(0.9);
      requests.back().mutable_sampling()->set_seed(i);
    }
    alone.push_back(Ask(engine.inference(), requests.back()));
    ASSERT_EQ(alone.back().ids.size(), 300u);
  }
  EXPECT_EQ(num_preemptions(), 0);
  std::vector<std::unique_ptr<OpenStream>> streams;
  for (const pb::GenerateRequest& request : requests) {
    streams.push_back(std::make_unique<OpenStream>(engine, request));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    const Answer answer = streams[i]->Rest();
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_EQ(answer.ids, alone[i].ids) << i;
    EXPECT_EQ(answer.last().usage().completion_tokens(), 300u);
  }
  EXPECT_GT(num_preemptions(), 0);  // counted, and seen nowhere else
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
}

constexpr uint32_t kPoisoned = 700;

// Makes the embedding of one token NaN.
void Poison(std::vector<StoredTensor>* tensors) {
  for (StoredTensor& tensor : *tensors) {
    if (tensor.name != "gpt_neox.embed_in.weight") continue;
    CHECK_EQ(tensor.dtype, "F32");
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const int64_t hidden_size = tensor.shape[1];
    for (int64_t i = 0; i < hidden_size; ++i) {
      std::memcpy(tensor.bytes.data() + (kPoisoned * hidden_size + i) * sizeof(float), &nan,
                  sizeof(float));
    }
    return;
  }
  CHECK(false);
}

TEST(Behaviour, LogitsThatAreNotFiniteAreInternalForThatRequestAlone) {
  ServedRanksOptions options;
  options.tp_size = 2;
  options.model.edit = Poison;
  options.flags = {"--kv_memory", std::to_string(64 * kBlockBytes / 2)};
  ServedRanks engine(options);
  const pb::GenerateRequest healthy = PromptOf({11, 7, 301}, 900);  // 57 blocks of 64
  const Answer alone = Ask(engine.inference(), healthy);
  ASSERT_EQ(alone.ids.size(), 900u);

  OpenStream beside(engine, healthy);
  beside.WaitForTokens();
  std::vector<uint32_t> prompt(40, 5);
  prompt[30] = kPoisoned;
  for (int i = 0; i < 3; ++i) {
    const Answer answer = Ask(engine.inference(), PromptOf(prompt, 10));
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    ASSERT_EQ(answer.events.size(), 1u);
    EXPECT_EQ(answer.last().error().code(), pb::ERROR_CODE_INTERNAL);
    EXPECT_FALSE(answer.last().error().retryable());
  }
  EXPECT_TRUE(engine.Serving());
  EXPECT_EQ(beside.Rest().ids, alone.ids);
  // Nor does what the poisoned request left in the cache reach those who get its blocks.
  EXPECT_EQ(Ask(engine.inference(), healthy).ids, alone.ids);
  EXPECT_TRUE(engine.BecomesIdle(kSoon));
}

}  // namespace
}  // namespace polystrate
