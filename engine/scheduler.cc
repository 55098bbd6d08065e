#include "engine/scheduler.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// What the sequence's penalties need to know of its tokens; null when it has no penalty.
std::unique_ptr<TokenHistory> MakeHistory(const Sequence& sequence) {
  const SampleRow& row = sequence.sampling;
  const bool of_prompt = row.repetition_penalty != 1.0f;  // the others count what was generated
  if (!of_prompt && row.frequency_penalty == 0.0f && row.presence_penalty == 0.0f) return nullptr;
  auto history = std::make_unique<TokenHistory>();
  const absl::Span<const int32_t> tokens = sequence.tokens;
  if (of_prompt) {
    for (const int32_t id : tokens.first(sequence.prompt_len)) history->AddPrompt(id);
  }
  for (const int32_t id : tokens.subspan(sequence.prompt_len)) history->Add(id);
  return history;
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), blocks_(options.num_blocks) {
  CHECK_GE(options.block_size, 1);
  CHECK_GE(options.max_num_seqs, 1);
  CHECK_GE(options.max_num_batched_tokens, 1);
  CHECK_GE(options.pp_size, 1);
  for (int64_t row = options.max_num_seqs - 1; row >= 0; --row) {
    free_rows_.push_back(static_cast<int32_t>(row));
  }
}

int64_t Scheduler::BlocksFor(int64_t num_tokens) const {
  return CeilDiv(num_tokens, options_.block_size);
}

bool Scheduler::Fits(int64_t num_tokens) const {
  return BlocksFor(num_tokens) <= blocks_.num_blocks();
}

void Scheduler::Add(std::unique_ptr<Sequence> sequence) {
  CHECK(!sequence->tokens.empty());
  CHECK_GE(static_cast<int64_t>(sequence->tokens.size()), sequence->prompt_len);
  sequence->history = MakeHistory(*sequence);
  if (sequence->history != nullptr) ++num_histories_;
  sequence->arrival = next_arrival_++;
  waiting_.insert(sequence.get());
  const bool inserted = sequences_.emplace(sequence->id, std::move(sequence)).second;
  CHECK(inserted);
}

void Scheduler::Remove(uint64_t id, bool keep_cache) {
  auto found = sequences_.find(id);
  CHECK(found != sequences_.end());
  Sequence* sequence = found->second.get();
  if (waiting_.erase(sequence) > 0 && sequence->admitted) --num_preempted_;
  running_.erase(sequence);
  if (sequence->history != nullptr) --num_histories_;
  if (!keep_cache) {
    // Not its block_table: it may have been preempted, and others may have published the same.
    blocks_.Unpublish(FindPrefix(*sequence, sequence->num_needed()).blocks);
  }
  GiveBlocksBack(sequence);
  sequences_.erase(found);
}

bool Scheduler::Awaits(uint64_t id, int64_t position) const {
  const Sequence* sequence = Find(id);
  return sequence != nullptr && position == static_cast<int64_t>(sequence->tokens.size());
}

bool Scheduler::Append(uint64_t id, int64_t position, int32_t token_id) {
  auto found = sequences_.find(id);
  if (found == sequences_.end()) return false;
  Sequence& sequence = *found->second;
  if (position != static_cast<int64_t>(sequence.tokens.size())) return false;
  sequence.tokens.push_back(token_id);
  if (sequence.history != nullptr) sequence.history->Add(token_id);
  PublishFullBlocks(&sequence);  // the block that it fills, if it was fed
  return true;
}

void Scheduler::SetLookahead() {
  CHECK_EQ(options_.pp_size, 1);
  lookahead_ = true;
}

const Sequence* Scheduler::Find(uint64_t id) const {
  auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

std::optional<StepPlan> Scheduler::Schedule() {
  if (MustWait()) return std::nullopt;
  StepPlan plan;
  plan.feed = lookahead_;
  plan.cu_seqlens_q.push_back(0);
  preempted_this_step_ = false;
  const Share share = EvenShare();
  plan.Reserve(share.num_seqs + 1);
  ScheduleDecodes(share, &plan);
  num_decodes_ = plan.num_tokens();
  const PromptLimit limit = {
      // One more than its share, if decodes fill that: the chunks of a prompt go into every plan.
      std::max(share.num_seqs, plan.num_seqs() + 1),
      std::min(options_.max_num_batched_tokens, num_decodes_ + share.num_prompt_tokens)};
  if (share.has_prompts) SchedulePrompts(limit, &plan);
  // What a preemption has just freed must not go to a newcomer, or the two would take turns for
  // ever.
  if (!preempted_this_step_) AdmitWaiting(limit, &plan);
  if (plan.num_seqs() == 0) return std::nullopt;

  plan.step_id = next_step_id_++;
  recent_prompt_tokens_.push_front(plan.num_tokens() - num_decodes_);
  if (recent_prompt_tokens_.size() >= static_cast<size_t>(kRounds * options_.pp_size)) {
    recent_prompt_tokens_.pop_back();
  }
  return plan;
}

void Scheduler::Retire(uint64_t step_id) {
  if (step_id + 1 == next_step_id_) recent_prompt_tokens_.clear();  // nothing is in flight
}

bool Scheduler::MustWait() const {
  if (!lookahead_ || num_histories_ == 0) return false;
  return std::any_of(running_.begin(), running_.end(), [](const Sequence* sequence) {
    return sequence->history != nullptr && sequence->awaits_draw() &&
           sequence->draw_position + 1 < sequence->max_len;
  });
}

// Whether the sequence goes on from what the plan just before draws.
bool Scheduler::CanBeFed(const Sequence& sequence) const {
  return lookahead_ && sequence.awaits_draw() && sequence.last_step + 1 == next_step_id_ &&
         sequence.draw_position + 1 < sequence.max_len && sequence.history == nullptr;
}

// With pp_size plans in flight a stage waits whenever one of them is smaller than the others. So
// each takes an even part of all there is to do.
Scheduler::Share Scheduler::EvenShare() const {
  const int64_t pp_size = options_.pp_size;
  int64_t num_decodes = 0;
  int64_t num_prompt_tokens = 0;
  bool decoding = false;
  bool has_prompts = false;
  for (const Sequence* sequence : running_) {
    if (sequence->num_unscheduled() < 2) {
      ++num_decodes;
      decoding |= static_cast<int64_t>(sequence->tokens.size()) > sequence->prompt_len;
    } else {
      num_prompt_tokens += sequence->num_unscheduled();
      has_prompts = true;
    }
  }
  // While sequences decode plans follow one another anyway, and prompts go into more of them: they
  // arrive one by one, and would fill a plan but not the next.
  const int64_t num_plans = pp_size > 1 && decoding ? kRounds * pp_size : pp_size;
  int64_t before = 1;
  for (int64_t tokens : recent_prompt_tokens_) {
    if (before++ < num_plans) num_prompt_tokens += tokens;
  }
  int64_t admissible = options_.max_num_seqs - num_running();
  for (const Sequence* sequence : waiting_) {
    if (admissible-- <= 0) break;
    if (num_prompt_tokens >= num_plans * options_.max_num_batched_tokens) break;
    num_prompt_tokens += sequence->num_unscheduled();
  }
  const int64_t num_seqs = std::min(num_running() + num_waiting(), options_.max_num_seqs);
  return {CeilDiv(num_decodes, pp_size), CeilDiv(num_seqs, pp_size),
          std::max(CeilDiv(num_prompt_tokens, num_plans), kMinPromptTokens), has_prompts};
}

// Running sequences that miss one token alone, or will, the most urgent first. If there are more
// than `limit`, those that have waited longest, so that all get their turn.
std::vector<Sequence*> Scheduler::ReadyDecodes(size_t limit) const {
  std::vector<Sequence*> ready;
  for (Sequence* sequence : running_) {
    if (sequence->num_unscheduled() == 1 || CanBeFed(*sequence)) ready.push_back(sequence);
  }
  if (ready.size() <= limit) return ready;
  std::stable_sort(ready.begin(), ready.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_step < b->last_step;
  });
  ready.resize(limit);
  std::sort(ready.begin(), ready.end(), MoreUrgent());
  return ready;
}

void Scheduler::ScheduleDecodes(const Share& share, StepPlan* plan) {
  const int64_t limit = std::min(share.num_decodes, options_.max_num_batched_tokens);
  for (Sequence* sequence : ReadyDecodes(limit)) {
    // Who is preempted is less urgent than all that are in the plan.
    if (preempted_this_step_ && !running_.contains(sequence)) return;
    if (!GrowOrPreempt(sequence)) return;
    AddChunk(sequence, 1, plan);
  }
}

// Makes room for the next token of a running sequence, if need be at the expense of less urgent
// ones. False when it was the least urgent itself.
bool Scheduler::GrowOrPreempt(Sequence* sequence) {
  const int64_t missing =
      BlocksFor(sequence->num_scheduled + 1) - static_cast<int64_t>(sequence->block_table.size());
  if (missing <= 0) return true;
  while (!blocks_.Allocate(missing, &sequence->block_table)) {
    const bool itself = *running_.rbegin() == sequence;
    PreemptLeastUrgent();
    if (itself) return false;
  }
  return true;
}

void Scheduler::PreemptLeastUrgent() {
  Sequence* victim = *running_.rbegin();
  running_.erase(victim);
  GiveBlocksBack(victim);
  victim->num_scheduled = 0;
  victim->draw_position = -1;
  waiting_.insert(victim);
  ++num_preempted_;
  preempted_this_step_ = true;
  ++num_preemptions_;
}

// For the same reason as its blocks the row of its table may be another's at once.
void Scheduler::GiveBlocksBack(Sequence* sequence) {
  blocks_.Free(&sequence->block_table);
  if (sequence->table_row < 0) return;  // it waits
  free_rows_.push_back(std::exchange(sequence->table_row, -1));
  sequence->num_told_blocks = 0;
  num_running_tokens_ -= sequence->num_scheduled;
}

void Scheduler::SchedulePrompts(const PromptLimit& limit, StepPlan* plan) {
  for (Sequence* sequence : running_) {
    const int64_t budget = limit.num_tokens - plan->num_tokens();
    if (budget <= 0 || plan->num_seqs() >= limit.num_seqs) return;
    if (sequence->num_unscheduled() < 2) continue;  // nothing to do, or a decode that has to wait
    // A token sampled before a preemption may arrive while the prompt is computed again and outgrow
    // the blocks; it is then left for a decode, which may ask for more.
    const int64_t room = static_cast<int64_t>(sequence->block_table.size()) * options_.block_size -
                         sequence->num_scheduled;
    AddChunk(sequence, std::min({budget, room, sequence->num_unscheduled()}), plan);
  }
}

void Scheduler::AdmitWaiting(const PromptLimit& limit, StepPlan* plan) {
  while (!waiting_.empty() && num_running() < options_.max_num_seqs) {
    const int64_t budget = limit.num_tokens - plan->num_tokens();
    if (budget <= 0 || plan->num_seqs() >= limit.num_seqs) return;
    Sequence* sequence = *waiting_.begin();
    if (!TakeBlocks(sequence)) return;
    waiting_.erase(waiting_.begin());
    running_.insert(sequence);
    sequence->table_row = free_rows_.back();
    free_rows_.pop_back();
    num_running_tokens_ += sequence->num_scheduled;
    AddChunk(sequence, std::min(budget, sequence->num_unscheduled()), plan);
  }
}

// The published blocks that hold the sequence's first tokens, at most max_tokens.
Scheduler::Prefix Scheduler::FindPrefix(const Sequence& sequence, int64_t max_tokens) const {
  Prefix prefix;
  const absl::Span<const int32_t> tokens = sequence.tokens;
  for (int64_t end = options_.block_size; end <= max_tokens; end += options_.block_size) {
    const auto [block, content] =
        blocks_.Find(sequence.cache_root, prefix.content,
                     tokens.subspan(end - options_.block_size, options_.block_size));
    if (block < 0) break;
    prefix.blocks.push_back(block);
    prefix.content = content;
  }
  return prefix;
}

// Blocks for all needed tokens of a waiting sequence at once, so that a prompt whose first chunk
// ran always gets to its end: those that hold its first tokens already, and others for the rest.
// False, and nothing changes, when there are not so many.
bool Scheduler::TakeBlocks(Sequence* sequence) {
  // Rows whose logits are wanted have to be computed: the last one's, and those of scored tokens.
  const int64_t skippable = std::min(sequence->num_needed(), sequence->score_begin) - 1;
  Prefix prefix = FindPrefix(*sequence, skippable);
  const auto num_found = static_cast<int64_t>(prefix.blocks.size());
  const int64_t missing = BlocksFor(sequence->num_needed()) - num_found;
  const int64_t idle = std::count_if(prefix.blocks.begin(), prefix.blocks.end(),
                                     [this](int32_t b) { return blocks_.num_holders(b) == 0; });
  if (missing > blocks_.num_available() - idle) return false;
  for (int32_t block : prefix.blocks) blocks_.Hold(block);
  sequence->block_table = std::move(prefix.blocks);
  CHECK(blocks_.Allocate(missing, &sequence->block_table));
  sequence->num_published = num_found;
  sequence->content = prefix.content;
  sequence->num_scheduled = num_found * options_.block_size;
  if (sequence->admitted) {
    --num_preempted_;
  } else {
    sequence->admitted = true;
    admitted_.push_back(sequence->id);
    sequence->num_cached_tokens = std::min(sequence->num_scheduled, sequence->prompt_len);
    if (!sequence->cache_root.is_private()) {
      num_prefix_queries_ += sequence->prompt_len;
      num_prefix_hits_ += sequence->num_cached_tokens;
    }
  }
  return true;
}

// From here on others may find what the plans made so far write, as far as that is known.
void Scheduler::PublishFullBlocks(Sequence* sequence) {
  const int64_t size = options_.block_size;
  const absl::Span<const int32_t> tokens = sequence->tokens;
  const int64_t end = std::min<int64_t>(sequence->num_scheduled, tokens.size());
  for (int64_t& i = sequence->num_published; (i + 1) * size <= end; ++i) {
    sequence->content = blocks_.Publish(sequence->block_table[i], sequence->cache_root,
                                        sequence->content, tokens.subspan(i * size, size));
  }
}

void Scheduler::AddChunk(Sequence* sequence, int64_t num_tokens, StepPlan* plan) {
  const int64_t begin = sequence->num_scheduled;
  const int64_t end = begin + num_tokens;
  const int64_t known = static_cast<int64_t>(sequence->tokens.size());
  for (int64_t position = begin; position < end; ++position) {
    const int32_t row = static_cast<int32_t>(plan->num_tokens());
    const int32_t block = sequence->block_table[position / options_.block_size];
    plan->token_ids.push_back(position < known ? sequence->tokens[position]
                                               : FedToken(sequence->draw_place));
    plan->positions.push_back(static_cast<int32_t>(position));
    plan->slot_mapping.push_back(
        static_cast<int32_t>(block * options_.block_size + position % options_.block_size));
    const int64_t next = position + 1;
    if (next >= sequence->score_begin && next < sequence->prompt_len) {
      const ScoreRow params{sequence->tokens[next], sequence->num_candidates};
      plan->scores.push_back({sequence->id, row, params, next});
    }
  }
  plan->cu_seqlens_q.push_back(static_cast<int32_t>(plan->num_tokens()));
  plan->context_lens.push_back(static_cast<int32_t>(end));
  AddTable(sequence, plan);
  sequence->num_scheduled = end;
  num_running_tokens_ += num_tokens;
  sequence->last_step = next_step_id_;
  if (end >= known && sequence->sample) AddSample(sequence, plan);
  PublishFullBlocks(sequence);
}

// What of the sequence's blocks no plan has carried.
void Scheduler::AddTable(Sequence* sequence, StepPlan* plan) {
  const auto num_blocks = static_cast<int32_t>(sequence->block_table.size());
  plan->table_rows.push_back(sequence->table_row);
  plan->max_blocks = std::max(plan->max_blocks, num_blocks);
  for (int64_t& i = sequence->num_told_blocks; i < num_blocks; ++i) {
    plan->new_blocks.push_back(
        {sequence->table_row, static_cast<int32_t>(i), sequence->block_table[i]});
  }
}

// A draw after the plan's last token, which is the last scheduled one of the sequence.
void Scheduler::AddSample(Sequence* sequence, StepPlan* plan) {
  SamplePoint point{sequence->id, static_cast<int32_t>(plan->num_tokens() - 1), sequence->sampling};
  SampleRow& row = point.params;
  const int64_t position = sequence->num_scheduled;
  sequence->draw_position = position;
  sequence->draw_place = static_cast<int32_t>(plan->samples.size());
  row.position = static_cast<uint64_t>(position);
  row.history_begin = static_cast<int32_t>(plan->history.size());
  if (sequence->history != nullptr) {
    const absl::Span<const TokenCount> counts = sequence->history->counts();
    plan->history.insert(plan->history.end(), counts.begin(), counts.end());
  }
  row.history_end = static_cast<int32_t>(plan->history.size());
  row.biases_begin = static_cast<int32_t>(plan->biases.size());
  if (position < sequence->biases_end) {
    plan->biases.insert(plan->biases.end(), sequence->biases.begin(), sequence->biases.end());
  }
  row.biases_end = static_cast<int32_t>(plan->biases.size());
  plan->samples.push_back(point);
}

void Scheduler::CheckInvariants() const {
  blocks_.CheckInvariants();
  CHECK_EQ(running_.size() + waiting_.size(), sequences_.size());
  CHECK_LE(num_running(), options_.max_num_seqs);
  std::vector<int32_t> holders(blocks_.num_blocks(), 0);
  absl::flat_hash_set<int32_t> rows(free_rows_.begin(), free_rows_.end());
  int64_t num_running_tokens = 0;
  for (const Sequence* sequence : running_) {
    const auto num_blocks = static_cast<int64_t>(sequence->block_table.size());
    const int64_t num_fed = std::max<int64_t>(-sequence->num_unscheduled(), 0);
    CHECK_LE(num_fed, lookahead_ ? 1 : 0);
    num_running_tokens += sequence->num_scheduled;
    CHECK(rows.insert(sequence->table_row).second);
    CHECK_LE(sequence->num_told_blocks, num_blocks);
    CHECK_LE(BlocksFor(sequence->num_scheduled), num_blocks);
    CHECK_EQ(sequence->num_published, (sequence->num_scheduled - num_fed) / options_.block_size);
    for (int64_t i = 0; i < num_blocks; ++i) {
      const int32_t block = sequence->block_table[i];
      ++holders[block];
      // What will be written yet is nobody else's.
      if (i >= sequence->num_published) CHECK_EQ(blocks_.num_holders(block), 1);
    }
  }
  int64_t num_preempted = 0;
  for (const Sequence* sequence : waiting_) {
    CHECK(sequence->block_table.empty());
    CHECK_EQ(sequence->table_row, -1);
    CHECK_EQ(sequence->num_scheduled, 0);
    num_preempted += sequence->admitted ? 1 : 0;
  }
  CHECK_EQ(num_preempted, num_preempted_);
  CHECK_EQ(num_running_tokens, num_running_tokens_);
  CHECK_EQ(static_cast<int64_t>(rows.size()), options_.max_num_seqs);
  for (int32_t block = 0; block < blocks_.num_blocks(); ++block) {
    CHECK_EQ(holders[block], blocks_.num_holders(block));
  }
}

}  // namespace polystrate
