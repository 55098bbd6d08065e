// StepPlan: one micro-batch, as rank 0 tells it to every rank; StepResult: what the sampler
// answers. Flat arrays, so that a device can take them as they are.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace polystrate {

// A row whose logits become a token.
struct SamplePoint {
  uint64_t sequence_id = 0;
  int32_t row = 0;   // of the plan's tokens
  SampleRow params;  // params.position is the sampled token's position in its sequence
};
// A row whose logits are asked about the known token that follows.
struct ScorePoint {
  uint64_t sequence_id = 0;
  int32_t row = 0;
  ScoreRow params;
  int64_t position = 0;  // the target's
};

struct StepPlan {
  uint64_t step_id = 0;
  bool stop = false;  // the last plan: every rank returns
  bool feed = false;  // the next plan may be made before this one's samples are known

  // [num_tokens] FedToken(i): what sample i of the plan before will be.
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;     // [num_tokens]
  std::vector<int32_t> slot_mapping;  // [num_tokens] block * block_size + offset
  std::vector<int32_t> cu_seqlens_q;  // [num_seqs + 1]
  std::vector<int32_t> context_lens;  // [num_seqs] tokens in the cache once this step is done
  // Every rank keeps a table of blocks for each sequence that runs (BlockTables).
  std::vector<int32_t> table_rows;   // [num_seqs] whose is the sequence's
  std::vector<NewBlock> new_blocks;  // that the tables do not have by the plans before
  int32_t max_blocks = 0;            // of a sequence
  std::vector<SamplePoint> samples;
  std::vector<ScorePoint> scores;
  std::vector<TokenCount> history;  // of the samples, which know their parts (SampleLists)
  std::vector<TokenBias> biases;    // the same

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_seqs() const { return static_cast<int64_t>(context_lens.size()); }

  // Room for a decode step of so many sequences.
  void Reserve(int64_t sequences);

  std::vector<uint8_t> ToBytes() const;
  // CHECKs: plans only travel between ranks of one binary.
  static StepPlan FromBytes(const std::vector<uint8_t>& bytes);
};

struct SampledToken {
  uint64_t sequence_id = 0;
  int64_t position = 0;
  int32_t token_id = -1;  // -1: the logits were not finite, or every token was banned
  float logprob = 0.0f;   // NaN: the logits were not finite
  int32_t rank = 0;       // 0: not asked for
  int32_t num_candidates = 0;
};
struct ScoredToken {
  uint64_t sequence_id = 0;
  int64_t position = 0;
  float logprob = 0.0f;  // NaN: the logits were not finite
  int32_t rank = 0;
  int32_t num_candidates = 0;
};

struct StepResult {
  uint64_t step_id = 0;
  std::vector<SampledToken> samples;
  std::vector<ScoredToken> scores;
  // num_candidates of the first score, then of the next, ..., then of the first sample, ...
  std::vector<TokenLogProb> candidates;

  std::vector<uint8_t> ToBytes() const;
  static StepResult FromBytes(const std::vector<uint8_t>& bytes);
};

}  // namespace polystrate
