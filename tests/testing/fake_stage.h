// FakeStage: a model of what a stage would do with the scheduler's plans. A fake cache remembers
// what was written to each slot, so that a plan that reads what is not there, or what another
// sequence has overwritten, is caught at the step that does it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "engine/scheduler.h"

namespace polystrate {

inline std::unique_ptr<Sequence> MakeSequence(uint64_t id, int64_t prompt_len) {
  auto sequence = std::make_unique<Sequence>();
  sequence->id = id;
  for (int64_t i = 0; i < prompt_len; ++i) {
    sequence->tokens.push_back(static_cast<int32_t>(id * 1000 + i));
  }
  sequence->prompt_len = prompt_len;
  return sequence;
}

// The K and V of a token are decided by all tokens up to it; so is the fake cache's number.
using Kv = uint64_t;
inline constexpr Kv kStart = 1;
inline Kv NextKv(Kv before, int32_t token) {
  Kv kv = (before ^ static_cast<uint32_t>(token)) * 0x9e3779b97f4a7c15;
  return kv ^ (kv >> 29);
}
// Few tokens, so that sequences meet again after they have parted.
inline int32_t SampleFrom(Kv kv) { return static_cast<int32_t>(kv % 2); }
inline int32_t SampleAfter(const std::vector<int32_t>& tokens) {
  Kv kv = kStart;
  for (int32_t token : tokens) kv = NextKv(kv, token);
  return SampleFrom(kv);
}

class FakeStage {
 public:
  explicit FakeStage(const SchedulerOptions& options) : options_(options) {}

  // Runs a plan as a layer does: all that it writes, then all that it reads.
  StepResult Run(const StepPlan& plan) {
    EXPECT_LE(plan.num_tokens(), options_.max_num_batched_tokens);
    EXPECT_LE(plan.num_seqs(), options_.max_num_seqs);
    EXPECT_EQ(plan.cu_seqlens_q.back(), plan.num_tokens());
    StepResult result;
    result.step_id = plan.step_id;
    for (const NewBlock& b : plan.new_blocks) tables_[{b.row, b.index}] = b.block;
    for (int64_t s = 0; s < plan.num_seqs(); ++s) Write(plan, s);
    drawn_.clear();
    for (int64_t s = 0; s < plan.num_seqs(); ++s) CheckContext(plan, s);
    if (::testing::Test::HasFatalFailure()) return result;
    for (const SamplePoint& point : plan.samples) {
      const Kv kv = slots_.at(plan.slot_mapping[point.row]).kv;
      result.samples.push_back(
          {point.sequence_id, static_cast<int64_t>(point.params.position), SampleFrom(kv), 0.0f});
      if (plan.feed) drawn_.push_back(SampleFrom(kv));
    }
    return result;
  }

 private:
  struct Slot {
    int32_t position = -1;
    int32_t token = 0;
    Kv before = 0;
    Kv kv = 0;
  };

  Slot& SlotOf(const StepPlan& plan, int64_t s, int32_t position) {
    const auto index = static_cast<int32_t>(position / options_.block_size);
    const int32_t block = tables_.at({plan.table_rows[s], index});
    return slots_[block * options_.block_size + position % options_.block_size];
  }
  void Write(const StepPlan& plan, int64_t s) {
    for (int32_t row = plan.cu_seqlens_q[s]; row < plan.cu_seqlens_q[s + 1]; ++row) {
      const int32_t position = plan.positions[row], id = plan.token_ids[row];
      const int32_t token = id < 0 ? drawn_.at(FedToken(id)) : id;
      const Kv before = position == 0 ? kStart : SlotOf(plan, s, position - 1).kv;
      slots_[plan.slot_mapping[row]] = {position, token, before, NextKv(before, token)};
    }
  }
  // Every slot of the sequence must hold the token that follows the one in the slot before.
  void CheckContext(const StepPlan& plan, int64_t s) {
    const int32_t context = plan.context_lens[s];
    ASSERT_EQ(plan.positions[plan.cu_seqlens_q[s + 1] - 1], context - 1);
    Kv before = kStart;
    for (int32_t position = 0; position < context; ++position) {
      const Slot& slot = SlotOf(plan, s, position);
      ASSERT_EQ(slot.position, position) << "of " << context;
      ASSERT_EQ(slot.before, before) << "position " << position << " of " << context;
      before = slot.kv;
    }
  }

  const SchedulerOptions options_;
  std::map<int64_t, Slot> slots_;
  std::vector<int32_t> drawn_;                             // by the plan before
  std::map<std::pair<int32_t, int32_t>, int32_t> tables_;  // block by row and index
};

// Runs one step to its end; false when there is none.
inline bool RunStep(Scheduler* scheduler, FakeStage* stage) {
  const auto plan = scheduler->Schedule();
  scheduler->CheckInvariants();
  if (!plan.has_value()) return false;
  for (const auto& s : stage->Run(*plan).samples) {
    scheduler->Append(s.sequence_id, s.position, s.token_id);
  }
  return true;
}

}  // namespace polystrate
