// RankActivity: what the main thread of a rank is doing. That thread writes it, others read it: of
// a step that hangs it is all that tells where, and of a stage how busy it is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "kernels/core/mutex.h"

namespace polystrate {

enum class GroupName : uint8_t { kTp, kPp, kControl, kTokens };
enum class Operation : uint8_t { kNone, kAllReduce, kBroadcast, kGather, kSend, kReceive };

// Trivially copyable: it travels between ranks of one binary as it is.
struct RankReport {
  uint64_t step_id = 0;  // of the step that runs, or ran last
  int32_t num_seqs = 0;  // of that step, like the next
  int32_t num_tokens = 0;
  bool in_step = false;

  // The last call on a communicator.
  bool in_operation = false;  // it still waits or transfers
  Operation operation = Operation::kNone;
  GroupName group = GroupName::kTp;
  // How many calls on that group there have been: the same on all ranks of a `tp` group that are at
  // one place.
  uint64_t operation_number = 0;

  int64_t since_ns = 0;  // how long the rank has been inside that call, or at work since it
  int64_t busy_ns = 0;   // in steps so far; waiting for the stage before is not work
  uint64_t steps = 0;    // done so far, like the next
  uint64_t tokens = 0;
};

// "computing for 1.2 s in step 7 (2 sequences, 40 tokens), last all-reduce 96 of tp". Step ids go
// round the micro-batches of `pp_size` stages.
std::string Describe(const RankReport& report, int pp_size);

class RankActivity {
 public:
  RankActivity();

  // --- The rank's main thread. ---
  void BeginStep(uint64_t step_id, int64_t num_seqs, int64_t num_tokens);
  void EndStep();
  // Communicators say so (watched_communicator.h). A second Begin without an End between is the
  // same call.
  void BeginOperation(GroupName group, Operation operation);
  void EndOperation();

  // --- Any thread. ---
  RankReport Read() const;
  // BeginOperation does not return any more: what this rank would tell others is wrong.
  void Freeze();

 private:
  bool WaitsForStageBefore() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  RankReport report_ ABSL_GUARDED_BY(mutex_);
  bool frozen_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t operation_numbers_[4] ABSL_GUARDED_BY(mutex_) = {};  // by GroupName
  int64_t changed_ns_ ABSL_GUARDED_BY(mutex_);                  // when since_ns was 0
  int64_t work_from_ns_ ABSL_GUARDED_BY(mutex_);                // of what busy_ns does not hold yet
};

}  // namespace polystrate
