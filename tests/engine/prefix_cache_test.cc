// What the prefix cache saves, whom it serves, and that nothing is read of what it has given up.
// (That it changes no token: tests/engine/parity_test.cc.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "engine/model_cost.h"
#include "engine/pipeline_stage.h"
#include "engine/scheduler.h"
#include "tests/testing/expect_status.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kBlockSize = 4;

GenerationRequest Request(const std::vector<int32_t>& prompt, int64_t length,
                          int64_t max_tokens = 5) {
  GenerationRequest request;
  request.prompt.assign(prompt.begin(), prompt.begin() + length);
  request.max_tokens = max_tokens;
  request.ignore_eos = true;
  request.sampling.temperature = 0.0;
  return request;
}

class PrefixCache : public ::testing::Test {
 protected:
  PrefixCache() { WriteTinyModel(dir_.path(), spec_); }

  // One after the other.
  LocalRun Run(const std::vector<GenerationRequest>& requests, int64_t max_num_seqs = 1) {
    LocalEngineOptions options;
    options.block_size = kBlockSize;
    options.num_blocks = 256;
    options.max_num_seqs = max_num_seqs;
    options.prefix_cache = prefix_cache_;
    return RunLocalEngine(dir_.path(), options, requests);
  }
  // Tokens of all steps, of prompts and outputs.
  static int64_t NumComputed(const LocalRun& run) {
    int64_t n = 0;
    for (const StageSpan& span : run.timelines[0]) n += span.num_tokens;
    return n;
  }
  void ExpectCached(const std::vector<GenerationRequest>& requests,
                    const std::vector<int64_t>& cached) {
    const LocalRun run = Run(requests);
    ASSERT_EQ(cached.size(), requests.size());
    for (size_t i = 0; i < cached.size(); ++i) {
      EXPECT_EQ(run.outputs[i].usage->cached_prompt_tokens, prefix_cache_ ? cached[i] : 0)
          << "request " << i;
    }
  }

  bool prefix_cache_ = true;
  TinyModelSpec spec_;
  TempDir dir_;
  const std::vector<int32_t> prompt_ = RandomTokens(80, 96, 3);
};

TEST_F(PrefixCache, TellsHowManyTokensWereFound) {
  for (prefix_cache_ = true;; prefix_cache_ = false) {
    // A whole prompt that is known is computed from its last block on.
    ExpectCached({Request(prompt_, 33), Request(prompt_, 33), Request(prompt_, 32),
                  Request(prompt_, 50), Request(prompt_, 3), Request(prompt_, 80)},
                 {0, 32, 28, 32, 0, 48});
    if (!prefix_cache_) break;
  }
}

TEST_F(PrefixCache, KnowsWhatWasGeneratedToo) {
  const GenerationRequest first = Request(prompt_, 33, 9);
  GenerationRequest second = first;
  const LocalOutput answer = Run({first}).outputs[0];
  second.prompt.insert(second.prompt.end(), answer.token_ids.begin(), answer.token_ids.end());
  second.prompt.push_back(7);
  // The last token of the answer was never computed: 41 were, in ten full blocks.
  ExpectCached({first, second}, {0, 40});
}

TEST_F(PrefixCache, SaltsDoNotShare) {
  std::vector<GenerationRequest> requests(7, Request(prompt_, 33));
  requests[1].cache_salt = requests[2].cache_salt = "a";
  requests[3].cache_salt = requests[4].cache_salt = "b";
  requests[5].cache_salt = "a ";
  ExpectCached(requests, {0, 0, 32, 0, 32, 0, 32});
}

TEST_F(PrefixCache, WhoBypassesItNeitherFindsNorLeavesAnything) {
  std::vector<GenerationRequest> requests(5, Request(prompt_, 33));
  requests[0].bypass_prefix_cache = requests[1].bypass_prefix_cache = true;
  requests[3].bypass_prefix_cache = true;
  ExpectCached(requests, {0, 0, 0, 0, 32});
}

// A row that tells of a scored token has to be computed, and what is before them need not be.
TEST_F(PrefixCache, ScoresAreComputed) {
  std::vector<GenerationRequest> requests(4, Request(prompt_, 33));
  for (size_t i = 1; i < requests.size(); ++i) requests[i].prompt_logprobs = true;
  requests[2].prompt_logprob_start = 21;
  requests[3].prompt_logprob_start = 20;
  requests[3].max_tokens = 0;
  ExpectCached(requests, {0, 0, 20, 16});
}

TEST_F(PrefixCache, OutputsOfOneRequestShareItsPrompt) {
  for (const bool bypass : {false, true}) {
    GenerationRequest request = Request(prompt_, 33, 3);
    request.num_sequences = 4;
    request.bypass_prefix_cache = bypass;
    const LocalRun run = Run({request}, /*max_num_seqs=*/4);
    EXPECT_EQ(run.outputs[0].usage->cached_prompt_tokens, 0);
    // The last token of each output is not computed.
    EXPECT_EQ(NumComputed(run), 33 + 3 * 1 + 4 * 2);
  }
}

TEST_F(PrefixCache, ASharedBeginningIsComputedOnce) {
  constexpr int64_t kShared = 64, kOwn = 7, kRequests = 20;
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < kRequests; ++i) {
    requests.push_back(Request(prompt_, kShared, 1));
    const std::vector<int32_t> own = RandomTokens(kOwn, 96, 100 + i);
    requests.back().prompt.insert(requests.back().prompt.end(), own.begin(), own.end());
  }
  for (const int64_t max_num_seqs : {1, 64}) {
    EXPECT_EQ(NumComputed(Run(requests, max_num_seqs)), kShared + kRequests * kOwn);
  }
  prefix_cache_ = false;
  EXPECT_EQ(NumComputed(Run(requests, 64)), kRequests * (kShared + kOwn));
}

// A prompt whose sixth token is NaN spoils no block but its second; nobody knows that, so all go.
TEST_F(PrefixCache, AFailedRequestLeavesNothing) {
  constexpr int32_t kPoison = 33;
  spec_.edit = [](std::vector<StoredTensor>* tensors) {
    for (StoredTensor& tensor : *tensors) {
      if (tensor.name != "gpt_neox.embed_in.weight") continue;
      const size_t row = tensor.bytes.size() / 96;
      std::memset(tensor.bytes.data() + kPoison * row, 0xff, row);  // NaN
    }
  };
  WriteTinyModel(dir_.path(), spec_);
  std::vector<int32_t> prompt = prompt_;
  std::replace(prompt.begin(), prompt.end(), kPoison, kPoison + 1);
  GenerationRequest poisoned = Request(prompt, 20);
  poisoned.prompt[5] = kPoison;
  const auto outputs =
      Run({Request(prompt, 20), poisoned, Request(prompt, 20), Request(prompt, 20)}).outputs;
  EXPECT_TRUE(Fails(outputs[1].status, absl::StatusCode::kInternal, "not finite"));
  EXPECT_EQ(outputs[0].usage->cached_prompt_tokens, 0);
  // Of the first request's blocks, the failed one had found one.
  EXPECT_EQ(outputs[2].usage->cached_prompt_tokens, 0);
  EXPECT_EQ(outputs[3].usage->cached_prompt_tokens, 16);
}

// A scheduler and a stage, without an engine around them, so that each free block can be filled
// with NaN before each step: whoever still read one would spoil his logits.
class PoisonedRun {
 public:
  PoisonedRun(const std::string& model_dir, int64_t num_blocks)
      : scheduler_({.num_blocks = num_blocks, .block_size = kBlockSize}) {
    config_ = *ReadModelConfig(model_dir);
    whole_ = PlanStages(config_.sharing, StageCostsOf(config_), 1)->stages[0];
    StageWeights weights =
        *LoadStageWeights(model_dir, config_, topology_, whole_, DType::kFloat32, stream_.device());
    stage_ =
        *PipelineStage::Create({topology_, stream_, groups_}, config_, whole_, std::move(weights),
                               {DType::kFloat32, num_blocks, kBlockSize, 512,
                                config_.max_position_embeddings, /*max_num_seqs=*/64});
  }

  Scheduler& scheduler() { return scheduler_; }
  void Add(uint64_t id, const std::vector<int32_t>& prompt) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = id;
    sequence->tokens = prompt;
    sequence->prompt_len = static_cast<int64_t>(prompt.size());
    sequence->sampling.temperature = 0.0f;
    scheduler_.Add(std::move(sequence));
  }
  // The sequences that have come to `length` tokens, and end.
  std::vector<std::vector<int32_t>> Step(size_t length) {
    std::vector<std::vector<int32_t>> ended;
    const auto plan = scheduler_.Schedule();
    scheduler_.CheckInvariants();
    if (!plan.has_value()) return ended;
    PoisonFreeBlocks();
    const StepResult result = *stage_->Run(*plan);
    for (const SampledToken& sample : result.samples) {
      EXPECT_GE(sample.token_id, 0) << "not finite";
      scheduler_.Append(sample.sequence_id, sample.position, sample.token_id);
      const Sequence& sequence = *scheduler_.Find(sample.sequence_id);
      if (sequence.tokens.size() < length) continue;
      ended.push_back(sequence.tokens);
      scheduler_.Remove(sample.sequence_id);
    }
    return ended;
  }

 private:
  void PoisonFreeBlocks() {
    for (int32_t block = 0; block < scheduler_.blocks().num_blocks(); ++block) {
      if (!scheduler_.blocks().is_free(block)) continue;
      for (int layer = whole_.first_layer; layer < whole_.end_layer; ++layer) {
        const KvSlot& slot = stage_->kv_cache().slot(layer);
        for (const Tensor& x : {slot.key.Rows(block, 1), slot.value.Rows(block, 1)}) {
          std::fill_n(x.data<float>(), x.num_elements(), std::numeric_limits<float>::quiet_NaN());
        }
      }
    }
  }

  const Topology topology_{{1, 1}, 0};
  Stream stream_ = Stream::Cpu(1);
  ProcessGroups groups_ = MakeSelfGroups();
  ModelConfig config_;
  Stage whole_;
  std::unique_ptr<PipelineStage> stage_;
  Scheduler scheduler_;
};

TEST_F(PrefixCache, NothingIsReadOfAFreeBlock) {
  constexpr size_t kLength = 40;
  std::map<std::vector<int32_t>, std::vector<int32_t>> expected;  // by prompt
  std::vector<std::vector<int32_t>> prompts;
  for (uint64_t i = 0; i < 24; ++i) {
    std::vector<int32_t> prompt(prompt_.begin(), prompt_.begin() + static_cast<int64_t>(i % 13));
    const std::vector<int32_t> own = RandomTokens(1 + static_cast<int64_t>(i * 5 % 11), 96, i % 7);
    prompt.insert(prompt.end(), own.begin(), own.end());
    PoisonedRun alone(dir_.path(), 10);
    alone.Add(1, prompt);
    while (expected.count(prompt) == 0) {
      for (const auto& tokens : alone.Step(kLength)) expected[prompt] = tokens;
    }
    prompts.push_back(std::move(prompt));
  }
  PoisonedRun run(dir_.path(), 27);  // less than three sequences at their ends
  size_t num_ended = 0, num_added = 0;
  for (int step = 0; num_ended < prompts.size(); ++step) {
    ASSERT_LT(step, 10000);
    if (step % 3 == 0 && num_added < prompts.size()) {
      run.Add(num_added, prompts[num_added]);
      ++num_added;
    }
    for (const std::vector<int32_t>& tokens : run.Step(kLength)) {
      ++num_ended;
      const bool found = std::any_of(expected.begin(), expected.end(),
                                     [&](const auto& known) { return known.second == tokens; });
      EXPECT_TRUE(found);
    }
  }
  EXPECT_GT(run.scheduler().num_prefix_hits(), 0);
  EXPECT_GT(run.scheduler().num_preemptions(), 0);
  EXPECT_GT(run.scheduler().blocks().num_evictions(), 0);
  EXPECT_EQ(run.scheduler().blocks().num_used(), 0);
}

}  // namespace
}  // namespace polystrate
