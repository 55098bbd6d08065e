// Scheduler: which tokens of which sequences the next step computes. Knows tokens and blocks, never
// a tensor or a client. Continuous batching (Yu et al., Orca, OSDI 2022) over a paged cache (vLLM,
// arXiv:2309.06180). Rank 0, engine thread.
//
// Steps go through the pipeline in order and every stage runs them in order, so blocks that a
// sequence gives up may be handed out again at once: a later step that writes them runs after the
// earlier one that read them. For the same reason a full block can be found by others as soon as
// the plan that writes it is made, even by what else goes into that plan: a layer writes the K and
// V of all of a step's tokens before it reads any.
//
// A sequence may be urgent: higher priorities come first, of equal ones the first to arrive. The
// most urgent is admitted first and the least urgent preempted first; what runs is not preempted
// for what waits.
//
// Looking ahead (SetLookahead): a plan may be made while one is in flight whose samples it goes on
// from. It names the tokens that are not known by their places (FedToken), and the stage finds them
// where they were drawn. All but the token itself is known: where it goes, and where the next draw
// is. What is not known is whether it ends its output, so that a step may be computed in vain; its
// result is ignored as that of any sequence that is gone.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "engine/block_pool.h"
#include "engine/step_plan.h"
#include "engine/token_history.h"

namespace polystrate {

struct SchedulerOptions {
  int64_t num_blocks = 0;
  int64_t block_size = 16;
  int64_t max_num_seqs = 64;
  int64_t max_num_batched_tokens = 512;
  int pp_size = 1;  // plans in flight at most; each gets its share of the work
};

// One request's tokens. Intervals: [0, num_scheduled) is in the cache, or will be by the plans in
// flight; [num_scheduled, num_needed()) is still to be computed. A fed token is in the cache before
// it is among `tokens`: num_scheduled is then num_needed() + 1.
struct Sequence {
  uint64_t id = 0;
  std::vector<int32_t> tokens;  // prompt, then what was sampled, here or before it came here
  int64_t prompt_len = 0;
  SampleRow sampling;             // position and lists are filled in for each draw
  bool sample = true;             // false: only scores are wanted
  std::vector<TokenBias> biases;  // of the draws at positions below biases_end
  int64_t biases_end = 0;
  std::unique_ptr<TokenHistory> history;  // made by Add() when a penalty asks for it
  // Scores are wanted of the prompt's tokens from here on. As it stands, of none: every scored row
  // is one that the prefill skip must not leave out.
  int64_t score_begin = std::numeric_limits<int64_t>::max();
  int32_t num_candidates = 0;  // of each score
  int32_t priority = 0;        // higher is more urgent
  CacheRoot cache_root;        // whose blocks it may find, and who its own
  // Tokens at which it ends in any case: none of its draws is looked ahead of that comes so far.
  int64_t max_len = std::numeric_limits<int64_t>::max();

  // The scheduler's own, from here on.
  uint64_t arrival = 0;  // a preempted sequence keeps it, and so its place in the queue
  bool admitted = false;
  int64_t num_cached_tokens = 0;  // of the prompt, found when it was first admitted
  int64_t num_scheduled = 0;
  std::vector<int32_t> block_table;
  int32_t table_row = -1;       // in which the ranks keep it; its own as long as it runs
  int64_t num_told_blocks = 0;  // the first of block_table, which plans have carried
  int64_t num_published = 0;    // blocks, the first of block_table, all full
  BlockPool::Content content = BlockPool::kNothing;  // up to the end of the last of them
  uint64_t last_step = 0;                            // the last one that it was in
  // Its last draw: position, and place among the samples of that last step. None: -1.
  int64_t draw_position = -1;
  int32_t draw_place = 0;

  // What has to be in the cache: nothing is asked of the last token of a text that is only scored.
  int64_t num_needed() const { return static_cast<int64_t>(tokens.size()) - (sample ? 0 : 1); }
  int64_t num_unscheduled() const { return num_needed() - num_scheduled; }
  // All that is known is scheduled, and the token that follows is drawn by a plan in flight.
  bool awaits_draw() const {
    return num_scheduled == static_cast<int64_t>(tokens.size()) && draw_position == num_scheduled;
  }
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // True when a sequence that grows to `num_tokens` fits the cache by itself.
  bool Fits(int64_t num_tokens) const;

  // To the end of its priority's queue. The caller has made sure that all it may grow to Fits().
  void Add(std::unique_ptr<Sequence> sequence);
  // Drops a live sequence and gives its blocks back, wherever it is. Results of it in flight are
  // ignored later. Without keep_cache nothing that it read or wrote will be found again: its K and
  // V are not to be trusted.
  void Remove(uint64_t id, bool keep_cache = true);
  // Whether a sample is news: not when the sequence is gone or has this position already (it was
  // preempted while the sample was in flight, and sampled again).
  bool Awaits(uint64_t id, int64_t position) const;
  // Appends a sampled token. False, and nothing changes, when nobody Awaits() it.
  bool Append(uint64_t id, int64_t position, int32_t token_id);

  // From now on plans may be made while one is in flight. At pp_size 1 only: the others have plans
  // to make meanwhile.
  void SetLookahead();

  // The next micro-batch, or nothing when no sequence has a token to compute. Decodes come before
  // prompts so that a long prompt never stalls them; a prompt is cut into chunks by
  // max_num_batched_tokens, and its next chunk may follow while the last is in flight. When blocks
  // run out the least urgent sequence is preempted: it gives its blocks back, and what it does not
  // find again is computed again later.
  //
  // Up to pp_size plans are in flight, so each takes an even share of the decodes and of the prompt
  // tokens, and at most ceil(active sequences / pp_size) sequences, or one more: the next chunk of
  // a prompt goes into every plan, so that a stage is at one while the stage behind it is at the
  // one before.
  //
  // With lookahead there is also nothing as long as a sequence that decodes has to wait for its
  // token, because penalties on its next draw depend on that: else it would be in every other plan
  // and its neighbours in all.
  std::optional<StepPlan> Schedule();
  // The results of that plan, and so of those before it, are here.
  void Retire(uint64_t step_id);

  bool idle() const { return sequences_.empty(); }
  const Sequence* Find(uint64_t id) const;
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  // Prompt tokens of all sequences that were admitted and may share, and how many of them were
  // found.
  int64_t num_prefix_queries() const { return num_prefix_queries_; }
  int64_t num_prefix_hits() const { return num_prefix_hits_; }
  const BlockPool& blocks() const { return blocks_; }
  // Of the last plan: sequences that go on by one token. The others compute their prompts.
  int64_t num_decodes() const { return num_decodes_; }
  // Ids of sequences that were admitted for the first time since the last call of TakeAdmitted().
  const std::vector<uint64_t>& admitted() const { return admitted_; }
  std::vector<uint64_t> TakeAdmitted() { return std::exchange(admitted_, {}); }
  // Of those that wait.
  int64_t num_preempted() const { return num_preempted_; }
  // What the running ones have in the cache.
  int64_t num_running_tokens() const { return num_running_tokens_; }

  // CHECKs that queues, block tables and the pool agree; for tests.
  void CheckInvariants() const;

 private:
  struct MoreUrgent {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->priority != b->priority ? a->priority > b->priority : a->arrival < b->arrival;
    }
  };
  using Queue = absl::btree_set<Sequence*, MoreUrgent>;
  struct Prefix {
    std::vector<int32_t> blocks;
    BlockPool::Content content = BlockPool::kNothing;
  };

  // Below so many tokens a step takes about as long as with fewer, for it reads all weights: a
  // prompt is not cut into smaller parts for the sake of balance.
  static constexpr int64_t kMinPromptTokens = 64;
  // While others decode, prompts are spread over so many times pp_size plans.
  static constexpr int64_t kRounds = 4;
  // What one plan may take.
  struct Share {
    int64_t num_decodes;
    int64_t num_seqs;
    int64_t num_prompt_tokens;
    bool has_prompts;  // that run: more than a token of one is to be computed
  };
  // Where a plan that has its decodes is full.
  struct PromptLimit {
    int64_t num_seqs;
    int64_t num_tokens;
  };

  bool MustWait() const;
  bool CanBeFed(const Sequence& sequence) const;
  Share EvenShare() const;
  std::vector<Sequence*> ReadyDecodes(size_t limit) const;
  int64_t BlocksFor(int64_t num_tokens) const;
  Prefix FindPrefix(const Sequence& sequence, int64_t max_tokens) const;
  bool TakeBlocks(Sequence* sequence);
  void PublishFullBlocks(Sequence* sequence);
  bool GrowOrPreempt(Sequence* sequence);
  void ScheduleDecodes(const Share& share, StepPlan* plan);
  void SchedulePrompts(const PromptLimit& limit, StepPlan* plan);
  void AdmitWaiting(const PromptLimit& limit, StepPlan* plan);
  void PreemptLeastUrgent();
  void GiveBlocksBack(Sequence* sequence);
  void AddChunk(Sequence* sequence, int64_t num_tokens, StepPlan* plan);
  void AddTable(Sequence* sequence, StepPlan* plan);
  void AddSample(Sequence* sequence, StepPlan* plan);

  const SchedulerOptions options_;
  BlockPool blocks_;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Sequence>> sequences_;  // owns all live ones
  Queue waiting_;
  Queue running_;  // all their needed tokens have blocks
  bool lookahead_ = false;
  int64_t num_histories_ = 0;  // live sequences with one
  bool preempted_this_step_ = false;
  int64_t num_decodes_ = 0;
  int64_t num_preemptions_ = 0;
  int64_t num_preempted_ = 0;
  std::vector<uint64_t> admitted_;
  int64_t num_prefix_queries_ = 0;
  int64_t num_prefix_hits_ = 0;
  uint64_t next_arrival_ = 0;
  uint64_t next_step_id_ = 0;
  // Of the plans before, the newest first: those in flight and so many that fewer than kRounds
  // times as many as can be are remembered.
  std::deque<int64_t> recent_prompt_tokens_;
  std::vector<int32_t> free_rows_;  // a stack
  int64_t num_running_tokens_ = 0;
};

}  // namespace polystrate
