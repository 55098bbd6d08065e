#include "engine/block_allocator.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace polystrate {

BlockAllocator::BlockAllocator(int64_t num_blocks) : allocated_(num_blocks, false) {
  free_.resize(num_blocks);
  // Descending, so that block 0 is used first.
  for (int64_t i = 0; i < num_blocks; ++i) free_[i] = static_cast<int32_t>(num_blocks - 1 - i);
}

bool BlockAllocator::Allocate(int64_t count, std::vector<int32_t>* table) {
  CHECK_GE(count, 0);
  if (count > num_free()) return false;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    CHECK(!allocated_[block]);
    allocated_[block] = true;
    table->push_back(block);
  }
  return true;
}

void BlockAllocator::Free(std::vector<int32_t>* table) {
  for (auto block = table->rbegin(); block != table->rend(); ++block) {
    CHECK(allocated_[*block]);
    allocated_[*block] = false;
    free_.push_back(*block);
  }
  table->clear();
}

void BlockAllocator::CheckInvariants() const {
  std::vector<bool> seen(allocated_.size(), false);
  for (int32_t block : free_) {
    CHECK(!seen[block]);
    CHECK(!allocated_[block]);
    seen[block] = true;
  }
  const int64_t used = std::count(allocated_.begin(), allocated_.end(), true);
  CHECK_EQ(used + num_free(), num_blocks());
}

}  // namespace polystrate
