// Requests that go on where they were cut off, on engines that never saw their beginning: the
// tokens that come are those of a request that was left alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxTokens = 11;
constexpr int64_t kVocabSize = 96;
constexpr double kFloat32Tolerance = 1e-4;

// Of every kind whose state is in the tokens so far.
std::vector<GenerationRequest> Requests() {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 6; ++i) {
    GenerationRequest request;
    request.prompt = RandomTokens(5 + 7 * i, kVocabSize, i);
    request.max_tokens = kMaxTokens;
    request.sampling.temperature = i < 2 ? 0.0 : 1.0;
    if (i >= 2) request.sampling.seed = 100 + i;
    requests.push_back(request);
  }
  requests[1].sampling.frequency_penalty = 1.5;  // keeps a greedy output from repeating itself
  requests[3].sampling.repetition_penalty = 1.7;
  requests[3].sampling.presence_penalty = -0.5;
  requests[3].sampling.top_k = 30;
  // Nearly every token would stop it, but not before the seventh.
  requests[4].min_tokens = 6;
  for (int32_t id = 0; id < 80; ++id) requests[4].stop_token_ids.push_back(id);
  requests[5].output_logprobs = true;
  requests[5].output_candidates = 3;
  requests[5].sampling.min_p = 0.001;
  return requests;
}

std::vector<int32_t> From(const std::vector<int32_t>& ids, size_t cut) {
  return {ids.begin() + static_cast<ptrdiff_t>(cut), ids.end()};
}
std::vector<int32_t> Until(const std::vector<int32_t>& ids, size_t cut) {
  return {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(cut)};
}

struct Layout {
  const char* name;
  int tp_size = 1;
  int pp_size = 1;
  bool prefix_cache = true;
  int64_t num_blocks = 512;
  int64_t max_num_batched_tokens = 512;
};

class Resume : public testing::TestWithParam<Layout> {
 protected:
  Resume() { WriteTinyModel(dir_.path(), {}); }

  std::vector<LocalOutput> RunAlone(const std::vector<GenerationRequest>& requests) const {
    return RunLocalEngine(dir_.path(), {}, requests).outputs;
  }
  std::vector<LocalOutput> Run(const std::vector<GenerationRequest>& requests) const {
    LocalEngineOptions options;
    options.tp_size = GetParam().tp_size;
    options.pp_size = GetParam().pp_size;
    options.prefix_cache = GetParam().prefix_cache;
    options.block_size = 4;
    options.num_blocks = GetParam().num_blocks;
    options.max_num_batched_tokens = GetParam().max_num_batched_tokens;
    return RunLocalEngine(dir_.path(), options, requests).outputs;
  }

  const TempDir dir_;
};

INSTANTIATE_TEST_SUITE_P(
    Layouts, Resume,
    testing::Values(Layout{"one_rank"}, Layout{.name = "no_cache", .prefix_cache = false},
                    // Less than two of them need: preemption all the time.
                    Layout{.name = "preempted", .num_blocks = 20},
                    Layout{.name = "chunks", .max_num_batched_tokens = 5},
                    Layout{.name = "tp2", .tp_size = 2}, Layout{.name = "pp2", .pp_size = 2},
                    Layout{
                        .name = "tp2pp2_preempted", .tp_size = 2, .pp_size = 2, .num_blocks = 20}),
    [](const auto& test) { return test.param.name; });

TEST_P(Resume, AtEveryCut) {
  const std::vector<GenerationRequest> requests = Requests();
  const std::vector<LocalOutput> whole = RunAlone(requests);
  EXPECT_EQ(whole[4].reason, FinishReason::kStop);
  std::vector<std::pair<size_t, size_t>> cuts;  // of a request, after so many tokens
  for (size_t i = 0; i < requests.size(); ++i) {
    for (size_t cut = 0; cut <= whole[i].token_ids.size(); ++cut) cuts.emplace_back(i, cut);
  }
  std::shuffle(cuts.begin(), cuts.end(), std::minstd_rand(1));
  std::vector<GenerationRequest> resumed;
  for (const auto& [i, cut] : cuts) {
    resumed.push_back(requests[i]);
    resumed.back().resumed = {{Until(whole[i].token_ids, cut), false}};
  }
  const std::vector<LocalOutput> rest = Run(resumed);
  for (size_t n = 0; n < cuts.size(); ++n) {
    const auto [i, cut] = cuts[n];
    SCOPED_TRACE(testing::Message() << "request " << i << " cut after " << cut);
    EXPECT_EQ(rest[n].token_ids, From(whole[i].token_ids, cut));
    EXPECT_EQ(rest[n].reason, whole[i].reason);
    ASSERT_TRUE(rest[n].usage.has_value());
    EXPECT_EQ(rest[n].usage->prompt_tokens, whole[i].usage->prompt_tokens);
    EXPECT_EQ(rest[n].usage->completion_tokens, whole[i].usage->completion_tokens);
    EXPECT_LE(rest[n].usage->cached_prompt_tokens, rest[n].usage->prompt_tokens);
    for (size_t t = 0; t < rest[n].logprobs.size(); ++t) {
      EXPECT_NEAR(rest[n].logprobs[t], whole[i].logprobs[cut + t], kFloat32Tolerance);
      EXPECT_EQ(rest[n].ranks[t], whole[i].ranks[cut + t]);
      EXPECT_EQ(rest[n].candidates[t].size(), whole[i].candidates[cut + t].size());
    }
  }
}

// Outputs of a request that are at different places, some of them at their end.
TEST_P(Resume, SeveralOutputs) {
  GenerationRequest request;
  request.prompt = RandomTokens(14, kVocabSize, 1);
  request.num_sequences = 3;
  request.max_tokens = kMaxTokens;
  request.sampling.seed = 5;
  for (int32_t id = 0; id < 12; ++id) request.stop_token_ids.push_back(id);  // at different lengths
  LocalOutput whole = RunAlone({request})[0];
  ASSERT_EQ(whole.others.size(), 2u);
  const std::vector<LocalOutput> outputs = {whole, whole.others[0], whole.others[1]};
  int64_t completion_tokens = 0;
  for (const LocalOutput& output : outputs) {
    completion_tokens += static_cast<int64_t>(output.token_ids.size());
  }

  std::minstd_rand random(3);
  std::vector<GenerationRequest> resumed(40, request);
  for (GenerationRequest& r : resumed) {
    for (const LocalOutput& output : outputs) {
      const size_t length = output.token_ids.size();
      // Often at the end: told, or lost with the end.
      const size_t cut = random() % 3 == 0 ? length : random() % (length + 1);
      const bool ended = cut == length && random() % 2 == 0;
      r.resumed.push_back({Until(output.token_ids, cut), ended});
    }
  }
  const std::vector<LocalOutput> rest = Run(resumed);
  for (size_t n = 0; n < resumed.size(); ++n) {
    SCOPED_TRACE(testing::Message() << "request " << n);
    std::vector<LocalOutput> got = rest[n].others;
    got.insert(got.begin(), rest[n]);
    got.resize(3);
    int num_usages = 0;
    for (size_t i = 0; i < 3; ++i) {
      const ResumedOutput& had = resumed[n].resumed[i];
      EXPECT_EQ(got[i].token_ids, From(outputs[i].token_ids, had.tokens.size())) << "output " << i;
      if (!had.ended) {
        EXPECT_EQ(got[i].reason, outputs[i].reason) << "output " << i;
      }
      if (!got[i].usage.has_value()) continue;
      ++num_usages;
      EXPECT_EQ(got[i].usage->completion_tokens, completion_tokens);
    }
    EXPECT_EQ(num_usages, 1);
  }
}

// The scores of a prompt are told once more, by whichever output is the first to run.
TEST_P(Resume, PromptScores) {
  GenerationRequest request;
  request.prompt = RandomTokens(14, kVocabSize, 1);
  request.num_sequences = 2;
  request.max_tokens = 5;
  request.sampling.temperature = 0.0;
  request.prompt_logprobs = true;
  const LocalOutput whole = RunAlone({request})[0];
  GenerationRequest resumed = request;
  resumed.resumed = {{whole.token_ids, true}, {Until(whole.token_ids, 2), false}};
  const LocalOutput rest = Run({request, resumed})[1];
  ASSERT_EQ(rest.others.size(), 1u);
  EXPECT_EQ(rest.others[0].token_ids, From(whole.token_ids, 2));
  ASSERT_EQ(rest.prompt_logprobs.size(), 14u);
  for (size_t t = 1; t < 14; ++t) {
    EXPECT_NEAR(rest.prompt_logprobs[t], whole.prompt_logprobs[t], kFloat32Tolerance);
  }
}

}  // namespace
}  // namespace polystrate
