// The equality matrix in one process: whatever the cut, the chunks, the batch or the memory, a
// model gives the same answers. (On GPUs: device_parity_test.cc. Over real mpirun:
// tests/e2e/parity_test.cc.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/parity_cases.h"

namespace polystrate {
namespace {

double LogProb(const std::vector<float>& logits, int32_t token) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - top);
  return logits[token] - top - std::log(sum);
}

// Prefill, then one token at a time through the cache, is what one full forward pass says.
TEST_P(Parity, PrefillThenDecodeIsOneFullForward) {
  const ReuseKeys reuse_keys = std::get<1>(GetParam());
  const std::vector<LocalOutput> outputs = Run(Options());
  for (size_t i = 0; i < outputs.size(); ++i) {
    std::vector<int32_t> tokens = requests_[i].prompt;
    const size_t prompt_len = tokens.size();
    tokens.insert(tokens.end(), outputs[i].token_ids.begin(), outputs[i].token_ids.end());
    const auto logits = FullLogits(dir_.path(), tokens, reuse_keys);
    for (size_t t = requests_[i].prompt_logprobs ? 1 : prompt_len; t < tokens.size(); ++t) {
      const double expected = LogProb(logits[t - 1], tokens[t]);
      const float got =
          t < prompt_len ? outputs[i].prompt_logprobs[t] : outputs[i].logprobs[t - prompt_len];
      EXPECT_NEAR(got, expected, kFloat32Tolerance) << "request " << i << " token " << t;
      if (t < prompt_len) continue;
      const auto best = std::max_element(logits[t - 1].begin(), logits[t - 1].end());
      EXPECT_EQ(tokens[t], best - logits[t - 1].begin());
    }
  }
}

TEST_P(Parity, ChunksOfAnySize) {
  for (int64_t chunk : {1, 2, 5, 16}) {
    SCOPED_TRACE(testing::Message() << "chunk " << chunk);
    LocalEngineOptions options = Options();
    options.max_num_batched_tokens = chunk;
    ExpectSame(Run(options), kFloat32Tolerance);
  }
}

TEST_P(Parity, PreemptionAndBlockSizes) {
  LocalEngineOptions options = Options();
  options.num_blocks = 13;  // 52 tokens where four requests grow to 96
  ExpectSame(Run(options), kFloat32Tolerance);
  options.block_size = 1;
  options.num_blocks = 45;
  ExpectSame(Run(options), kFloat32Tolerance);
  options.block_size = 32;
  options.num_blocks = 2;
  ExpectSame(Run(options), kFloat32Tolerance);
}

TEST_P(Parity, TensorParallel) {
  for (int tp_size : {2, 3, 4, 12}) {
    SCOPED_TRACE(testing::Message() << "tp " << tp_size);
    LocalEngineOptions options = Options();
    options.tp_size = tp_size;
    ExpectSame(Run(options), kFloat32Tolerance);
  }
}

TEST_P(Parity, PipelineParallelIsBitIdenticalForTheSamePlan) {
  const KvSharing sharing{std::get<0>(GetParam()).kv_source};
  const int max_pp = static_cast<int>(sharing.legal_cuts().size()) + 1;
  for (int pp_size = 2; pp_size <= max_pp; ++pp_size) {
    SCOPED_TRACE(testing::Message() << "pp " << pp_size);
    LocalEngineOptions options = Options();
    options.pp_size = pp_size;
    ExpectSame(Run(options), kFloat32Tolerance);  // plans differ: they share the sequences out
    for (const GenerationRequest& request : requests_) {
      const auto one = RunLocalEngine(dir_.path(), Options(), {request}).outputs[0];
      const auto many = RunLocalEngine(dir_.path(), options, {request}).outputs[0];
      EXPECT_EQ(many.token_ids, one.token_ids);
      EXPECT_EQ(many.logprobs, one.logprobs);
      for (size_t t = 1; t < one.prompt_logprobs.size(); ++t) {
        EXPECT_EQ(many.prompt_logprobs[t], one.prompt_logprobs[t]);
      }
    }
  }
}

TEST_P(Parity, TensorAndPipelineParallelTogether) {
  LocalEngineOptions options = Options();
  options.tp_size = 2;
  options.pp_size = 2;
  options.max_num_batched_tokens = 8;
  options.num_blocks = 13;
  ExpectSame(Run(options), kFloat32Tolerance);
}

// What is skipped was not needed: with and without, over chunks (whose middle ones want no row at
// all), preemption, and both kinds of cut.
TEST_P(Parity, PrefillSkipChangesNothing) {
  const KvSharing sharing{std::get<0>(GetParam()).kv_source};
  std::vector<LocalEngineOptions> cases(8, Options());
  cases[1].max_num_batched_tokens = 1;
  cases[2].max_num_batched_tokens = 5;
  cases[3].max_num_batched_tokens = 16;
  cases[4].num_blocks = 13;
  cases[5].tp_size = 3;
  cases[6].pp_size = static_cast<int>(sharing.legal_cuts().size()) + 1;
  cases[7].tp_size = cases[7].pp_size = 2;
  cases[7].max_num_batched_tokens = 8;
  cases[7].num_blocks = 13;
  for (const bool scored : {false, true}) {
    requests_[0].prompt_logprobs = requests_[3].prompt_logprobs = scored;
    LocalEngineOptions off = Options();
    off.prefill_skip = false;
    const std::vector<LocalOutput> expected = Run(off);
    for (size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "case " << i);
      ExpectSame(Run(cases[i]), expected, kFloat32Tolerance);
      cases[i].prefill_skip = false;
      ExpectSame(Run(cases[i]), expected, kFloat32Tolerance);
      cases[i].prefill_skip = true;
    }
  }
}

// Every request twice, some of them beginning as others do. One after the other they find what is
// left, all at once what is being written; with few blocks they lose it and find it again.
TEST_P(Parity, PrefixHitsChangeNothing) {
  const KvSharing sharing{std::get<0>(GetParam()).kv_source};
  std::vector<LocalEngineOptions> cases(9, Options());
  cases[1].max_num_seqs = 1;
  cases[2].max_num_seqs = 1;
  cases[2].max_num_batched_tokens = 5;
  cases[2].prefill_skip = false;
  cases[3].num_blocks = 13;
  cases[4].tp_size = 3;
  cases[5].pp_size = static_cast<int>(sharing.legal_cuts().size()) + 1;
  cases[5].max_num_batched_tokens = 8;
  cases[6].tp_size = cases[6].pp_size = 2;
  cases[6].max_num_batched_tokens = 8;
  cases[6].num_blocks = 13;
  cases[7].block_size = 1;
  cases[7].num_blocks = 50;
  cases[8].block_size = 16;
  cases[8].max_num_batched_tokens = 16;

  const std::vector<int32_t> prompt = RandomTokens(33, 96, 7);
  requests_.clear();
  for (const int64_t length : {33, 32, 26, 5}) {
    requests_.push_back(Request({prompt.begin(), prompt.begin() + length}, 9));
    requests_.back().prompt_logprobs = length == 26;
    requests_.back().prompt_logprob_start = length == 26 ? 18 : 0;
  }
  requests_.push_back(requests_[1]);
  requests_.back().prompt[17] ^= 1;
  requests_.push_back(requests_[0]);
  requests_.back().sampling = {.temperature = 1.0, .seed = 5};
  requests_.push_back(requests_[0]);
  requests_.back().cache_salt = "another";
  const std::vector<GenerationRequest> again = requests_;
  requests_.insert(requests_.end(), again.begin(), again.end());

  LocalEngineOptions off = Options();
  off.prefix_cache = false;
  const std::vector<LocalOutput> expected = Run(off);
  for (const LocalOutput& output : expected) EXPECT_EQ(output.usage->cached_prompt_tokens, 0);
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "case " << i);
    const std::vector<LocalOutput> got = Run(cases[i]);
    ExpectSame(got, expected, kFloat32Tolerance);
    int64_t found = 0;
    for (const LocalOutput& output : got) found += output.usage->cached_prompt_tokens;
    EXPECT_GE(found, 100);
  }
}

INSTANTIATE_TEST_SUITE_P(Maps, Parity,
                         ::testing::Combine(::testing::ValuesIn(Maps()),
                                            ::testing::Values(ReuseKeys::kPostRope,
                                                              ReuseKeys::kPreRope)),
                         CaseName);

// The two key rules are different models: were they not, the matrix above would prove nothing.
TEST(KeyRules, DifferExactlyWhenLayersShare) {
  for (const Map& map : Maps()) {
    TempDir dir;
    WriteTinyModel(dir.path(), Spec(map));
    const std::vector<int32_t> tokens = RandomTokens(12, 96, 3);
    const auto post = FullLogits(dir.path(), tokens, ReuseKeys::kPostRope).back();
    const auto pre = FullLogits(dir.path(), tokens, ReuseKeys::kPreRope).back();
    double difference = 0;
    for (size_t i = 0; i < post.size(); ++i) {
      difference = std::max<double>(difference, std::abs(post[i] - pre[i]));
    }
    if (KvSharing{map.kv_source}.shares()) {
      EXPECT_GT(difference, 1e-2) << map.name;
    } else {
      EXPECT_LT(difference, 1e-4) << map.name;
    }
  }
}

// What a reuser's K and V tensors hold, if a checkpoint has them at all, changes nothing.
TEST(DeadTensors, OfReusersChangeNothing) {
  for (const Map& map : Maps()) {
    if (!KvSharing{map.kv_source}.shares()) continue;
    SCOPED_TRACE(map.name);
    TinyModelSpec spec = Spec(map);
    TempDir clean, poisoned;
    WriteTinyModel(clean.path(), spec);
    spec.dead_kv = TinyModelSpec::DeadTensors::kNan;
    spec.buffers = true;
    WriteTinyModel(poisoned.path(), spec);
    const std::vector<int32_t> tokens = RandomTokens(20, 96, 5);
    EXPECT_EQ(FullLogits(clean.path(), tokens), FullLogits(poisoned.path(), tokens));
  }
}

// A request's tokens depend on its seed and position, not on its neighbours.
TEST(Sampling, DoesNotDependOnTheBatch) {
  TempDir dir;
  WriteTinyModel(dir.path(), Spec(Maps()[3]));
  std::vector<GenerationRequest> requests;
  for (uint64_t i = 0; i < 12; ++i) {
    GenerationRequest request = Request(RandomTokens(1 + i * 3, 96, i), 12);
    request.sampling = {.temperature = 1.0, .top_k = 40, .top_p = 0.95, .seed = i};
    requests.push_back(request);
  }
  LocalEngineOptions options;
  const auto together = RunLocalEngine(dir.path(), options, requests).outputs;
  options.max_num_seqs = 5;
  options.max_num_batched_tokens = 7;
  options.pp_size = 2;
  const auto cramped = RunLocalEngine(dir.path(), options, requests).outputs;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto alone = RunLocalEngine(dir.path(), {}, {requests[i]}).outputs[0];
    EXPECT_EQ(together[i].token_ids, alone.token_ids) << i;
    EXPECT_EQ(cramped[i].token_ids, alone.token_ids) << i;
  }
  requests[0].sampling.seed = 99;
  EXPECT_NE(RunLocalEngine(dir.path(), {}, {requests[0]}).outputs[0].token_ids,
            together[0].token_ids);
}

// Stages work at the same time: while stage 1 computes one micro-batch, stage 0 is at the next. On
// a busy machine threads take turns and most of it is lost, so one overlap is asked for; one after
// the other there is none.
TEST(Pipeline, StagesOverlap) {
  TinyModelSpec spec = Spec(Maps()[0]);
  spec.hidden_size = 384;
  spec.intermediate_size = 1536;
  TempDir dir;
  WriteTinyModel(dir.path(), spec);
  std::vector<GenerationRequest> requests;
  for (uint64_t i = 0; i < 8; ++i) requests.push_back(Request(RandomTokens(16, 96, i), 32));
  LocalEngineOptions options;
  options.pp_size = 2;
  const LocalRun run = RunLocalEngine(dir.path(), options, requests);
  const std::vector<StageSpan>& first = run.timelines[0];
  const std::vector<StageSpan>& second = run.timelines[1];
  ASSERT_EQ(first.size(), second.size());
  int overlapping = 0;
  for (size_t step = 0; step + 1 < first.size(); ++step) {
    ASSERT_EQ(first[step].step_id, second[step].step_id);
    overlapping += first[step + 1].begin_ns < second[step].end_ns &&
                   second[step].begin_ns < first[step + 1].end_ns;
  }
  EXPECT_GT(overlapping, 0);
}

}  // namespace
}  // namespace polystrate
