// BlockAllocator: which KV blocks are free. Block ids only: every stage and every slot has the same
// blocks, so one table serves the whole engine. Rank 0, engine thread.
#pragma once

#include <cstdint>
#include <vector>

namespace polystrate {

class BlockAllocator {
 public:
  explicit BlockAllocator(int64_t num_blocks);

  int64_t num_blocks() const { return static_cast<int64_t>(allocated_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_used() const { return num_blocks() - num_free(); }

  // Appends `count` free blocks to `table`; false, and nothing changes, when there are not so many.
  bool Allocate(int64_t count, std::vector<int32_t>* table);
  // Gives every block of `table` back and clears it. CHECKs that each was allocated.
  void Free(std::vector<int32_t>* table);

  // Invariant: each block is free once or allocated once. CHECK-fails otherwise; for tests.
  void CheckInvariants() const;

 private:
  std::vector<int32_t> free_;    // a stack: the block freed last, warm in the cache, is used first
  std::vector<bool> allocated_;  // [num_blocks]
};

}  // namespace polystrate
