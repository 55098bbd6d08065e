// A request's tokens are its own: the same alone, in a crowd, with its prompt found in the cache,
// and after a preemption. Real ranks, float32, greedy and drawn.

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "tests/e2e/served_ranks.h"

namespace polystrate {
namespace {

constexpr uint32_t kPromptTokens = 70;  // 5 blocks
constexpr uint32_t kOutputTokens = 48;  // 8 blocks at the end

using Ids = std::vector<uint32_t>;

pb::GenerateRequest RandomRequest(uint32_t seed) {
  std::mt19937 random(seed);
  pb::GenerateRequest request;
  for (uint32_t i = 0; i < kPromptTokens; ++i) {
    request.mutable_token_ids()->add_ids(random() % 1024);
  }
  request.mutable_stopping()->set_max_tokens(kOutputTokens);
  request.mutable_stopping()->set_ignore_eos(true);
  pb::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(0.0);
  if (seed % 3 == 0) return request;
  sampling.set_temperature(0.9);
  sampling.set_seed(seed);
  if (seed % 3 == 1) return request;
  sampling.set_top_p(0.95);
  sampling.set_min_p(0.001);
  sampling.set_frequency_penalty(0.3);
  sampling.set_repetition_penalty(1.1);
  return request;
}

// All at once; the answers in the order of the requests.
std::vector<Answer> AskTogether(ServedRanks& engine,
                                const std::vector<pb::GenerateRequest>& requests) {
  std::vector<Answer> answers(requests.size());
  std::vector<std::thread> clients;
  for (size_t i = 0; i < requests.size(); ++i) {
    clients.emplace_back([&, i] { answers[i] = OpenStream(engine, requests[i]).Rest(); });
  }
  for (std::thread& client : clients) client.join();
  return answers;
}

std::vector<pb::GenerateRequest> Probes() {
  return {RandomRequest(0), RandomRequest(1), RandomRequest(2), RandomRequest(5)};
}

// Each probe by itself in an idle engine.
std::vector<Ids> AskAlone(ServedRanks& engine, uint32_t least_cached) {
  std::vector<Ids> all;
  for (const pb::GenerateRequest& probe : Probes()) {
    const Answer answer = OpenStream(engine, probe).Rest();
    EXPECT_EQ(answer.ids.size(), kOutputTokens) << answer.status.error_message();
    EXPECT_GE(answer.last().usage().cached_prompt_tokens(), least_cached);
    all.push_back(answer.ids);
  }
  return all;
}

void ExpectTheSame(const std::vector<Answer>& answers, const std::vector<Ids>& alone) {
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_TRUE(answers[i].status.ok()) << answers[i].status.error_message();
    EXPECT_EQ(answers[i].ids, alone[i]) << "probe " << i;
  }
}

class Determinism : public testing::TestWithParam<int> {};

TEST_P(Determinism, AloneInACrowdCachedAndPreempted) {
  ServedRanksOptions options;
  options.tp_size = GetParam();
  std::vector<Ids> alone;
  {
    ServedRanks engine(options);
    alone = AskAlone(engine, /*least_cached=*/0);
    // The prompt's full blocks; the last token is always computed.
    EXPECT_EQ(AskAlone(engine, /*least_cached=*/64), alone);

    std::vector<pb::GenerateRequest> crowd = Probes();
    for (pb::GenerateRequest& probe : crowd) probe.mutable_kv()->set_bypass_prefix_cache(true);
    for (uint32_t seed = 100; seed < 164; ++seed) crowd.push_back(RandomRequest(seed));
    ExpectTheSame(AskTogether(engine, crowd), alone);
    EXPECT_TRUE(engine.BecomesIdle());
  }
  // Any two of them fit at their beginning and not at their end.
  const int64_t pool = 12 * kBlockBytes / options.tp_size;
  options.flags = {"--kv_memory", std::to_string(pool)};
  ServedRanks engine(options);
  EXPECT_EQ(engine.Load().total_kv_blocks(), 12);
  ExpectTheSame(AskTogether(engine, Probes()), alone);
  EXPECT_TRUE(engine.BecomesIdle());
}

INSTANTIATE_TEST_SUITE_P(TwoStages, Determinism, testing::Values(1, 2),
                         [](const auto& run) { return "Tp" + std::to_string(run.param); });

}  // namespace
}  // namespace polystrate
