// The equality matrix's axis of scheduling: steps planned before the tokens of the step before are
// known say what those say that wait. On the CPU, where nothing is gained by it.

#include <gtest/gtest.h>

#include "tests/engine/parity_cases.h"

namespace polystrate {
namespace {

class LookaheadParity : public Parity {
 protected:
  // Everything that a plan which looks ahead has to know or to guess: what stops an output, how
  // long it may be, what its draws depend on.
  LookaheadParity() {
    LocalEngineOptions off = Options();
    off.async_scheduling = false;
    requests_[1].stop_token_ids = {Run(off)[1].token_ids[4]};
    requests_[1].ignore_eos = requests_[2].ignore_eos = false;
    requests_[2].sampling = {.temperature = 1.0, .seed = 7};
    requests_[2].num_sequences = 2;
    requests_[3].sampling = {.temperature = 0.8, .top_k = 20, .seed = 8};
    requests_.push_back(Request(RandomTokens(5, 96, 5), 1));
    requests_.push_back(Request(RandomTokens(6, 96, 6), 0));
    requests_.push_back(Request(RandomTokens(26, 96, 26), 12));  // begins as another does
    requests_.back().min_tokens = 6;
    requests_.back().ignore_eos = false;
    requests_.back().stop_token_ids = {1, 2, 3, 4, 5, 6, 7, 8};
    expected_ = Run(off);
    EXPECT_EQ(expected_[1].reason, FinishReason::kStop);
  }
  void ExpectNothingChanges(const LocalEngineOptions& options) const {
    const std::vector<LocalOutput> got = Run(options);
    ExpectSame(got, expected_, kFloat32Tolerance);
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].reason, expected_[i].reason) << "request " << i;
      if (requests_[i].num_sequences > 1) continue;  // which output ends last may change
      EXPECT_EQ(got[i].usage->completion_tokens, expected_[i].usage->completion_tokens);
    }
    ExpectSame(got[2].others, expected_[2].others, kFloat32Tolerance);
  }

  std::vector<LocalOutput> expected_;
};

TEST_P(LookaheadParity, ChangesNothing) {
  std::vector<LocalEngineOptions> cases(7, Options());
  cases[1].max_num_batched_tokens = 5;
  cases[2].num_blocks = 13;
  cases[3].tp_size = 3;
  cases[4].block_size = 1;
  cases[4].num_blocks = 50;
  cases[5].max_num_seqs = 2;
  cases[5].prefix_cache = false;
  cases[6].tp_size = 2;
  cases[6].max_num_batched_tokens = 3;  // fewer than decode
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "case " << i);
    cases[i].async_anywhere = true;
    ExpectNothingChanges(cases[i]);
  }
}

// Draws that depend on what was drawn: their plans wait, and so do the others'.
TEST_P(LookaheadParity, OrWithPenalties) {
  requests_[0].sampling.frequency_penalty = 1.5;
  requests_[4].sampling.repetition_penalty = 1.3;
  requests_[4].sampling.presence_penalty = 0.5;
  LocalEngineOptions options = Options();
  expected_ = Run(options);
  options.async_anywhere = true;
  ExpectNothingChanges(options);
  options.num_blocks = 13;
  ExpectNothingChanges(options);
}

INSTANTIATE_TEST_SUITE_P(Maps, LookaheadParity,
                         ::testing::Combine(::testing::ValuesIn(Maps()),
                                            ::testing::Values(ReuseKeys::kPostRope,
                                                              ReuseKeys::kPreRope)),
                         CaseName);

}  // namespace
}  // namespace polystrate
