#include "engine/block_pool.h"

#include <algorithm>

#include "kernels/core/check.h"

namespace polystrate {

BlockPool::BlockPool(int64_t num_blocks) : blocks_(num_blocks + 1), free_(num_blocks) {
  // Descending, so that block 0 is used first.
  for (int64_t i = 0; i < num_blocks; ++i) free_[i] = static_cast<int32_t>(num_blocks - 1 - i);
  blocks_[end_of_list()].older = blocks_[end_of_list()].newer = end_of_list();
}

bool BlockPool::Allocate(int64_t count, std::vector<int32_t>* table) {
  CHECK_GE(count, 0);
  if (count > num_available()) return false;
  for (int64_t i = 0; i < count; ++i) {
    if (free_.empty()) free_.push_back(Evict());
    const int32_t block = free_.back();
    free_.pop_back();
    CHECK_EQ(blocks_[block].num_holders, 0);
    blocks_[block].num_holders = 1;
    table->push_back(block);
  }
  return true;
}

void BlockPool::Free(std::vector<int32_t>* table) {
  for (auto id = table->rbegin(); id != table->rend(); ++id) {
    Block& block = blocks_[*id];
    CHECK_GT(block.num_holders, 0);
    if (--block.num_holders > 0) continue;
    if (block.content != kNothing && !block.root.is_private()) {
      Append(*id);
    } else {
      Unpublish(&block);
      free_.push_back(*id);
    }
  }
  table->clear();
}

// What comes before a block decides the root too, so that only a first block's key names it.
BlockPool::Key BlockPool::MakeKey(const CacheRoot& root, Content before,
                                  absl::Span<const int32_t> tokens) {
  if (before != kNothing) return {before, 0, "", tokens};
  if (root.is_private()) return {before, root.private_id, "", tokens};
  return {before, 0, root.salt, tokens};
}

BlockPool::Content BlockPool::Publish(int32_t id, const CacheRoot& root, Content before,
                                      absl::Span<const int32_t> tokens) {
  Block& block = blocks_[id];
  CHECK_GT(block.num_holders, 0);
  CHECK_EQ(block.content, kNothing);
  const auto [same, content] = Find(root, before, tokens);
  if (same >= 0) return content;
  block.content = next_content_++;
  block.before = before;
  block.root = root;
  block.tokens.assign(tokens.begin(), tokens.end());
  published_.emplace(MakeKey(block.root, before, block.tokens), id);
  return block.content;
}

std::pair<int32_t, BlockPool::Content> BlockPool::Find(const CacheRoot& root, Content before,
                                                       absl::Span<const int32_t> tokens) const {
  const auto found = published_.find(MakeKey(root, before, tokens));
  if (found == published_.end()) return {-1, kNothing};
  return {found->second, blocks_[found->second].content};
}

void BlockPool::Hold(int32_t block) {
  CHECK_NE(blocks_[block].content, kNothing);
  if (blocks_[block].num_holders++ == 0) Unlink(block);
}

void BlockPool::Unpublish(absl::Span<const int32_t> blocks) {
  for (int32_t block : blocks) {
    CHECK_NE(blocks_[block].content, kNothing);
    Unpublish(&blocks_[block]);
    if (num_holders(block) > 0) continue;
    Unlink(block);
    free_.push_back(block);
  }
}

void BlockPool::Unpublish(Block* block) {
  if (block->content == kNothing) return;
  published_.erase(MakeKey(block->root, block->before, block->tokens));
  block->content = kNothing;
}

int32_t BlockPool::Evict() {
  const int32_t oldest = blocks_[end_of_list()].newer;
  CHECK_NE(oldest, end_of_list());
  Unlink(oldest);
  Unpublish(&blocks_[oldest]);
  ++num_evictions_;
  return oldest;
}

void BlockPool::Append(int32_t block) {
  const int32_t newest = blocks_[end_of_list()].older;
  blocks_[block].older = newest;
  blocks_[block].newer = end_of_list();
  blocks_[newest].newer = blocks_[end_of_list()].older = block;
  ++num_cached_;
}

void BlockPool::Unlink(int32_t block) {
  const Block& b = blocks_[block];
  blocks_[b.older].newer = b.newer;
  blocks_[b.newer].older = b.older;
  --num_cached_;
}

void BlockPool::CheckInvariants() const {
  std::vector<int> states(num_blocks(), 0);
  for (int32_t id : free_) {
    CHECK(++states[id] == 1 && num_holders(id) == 0 && blocks_[id].content == kNothing);
  }
  int64_t num_listed = 0;
  for (int32_t id = blocks_[end_of_list()].newer; id != end_of_list(); id = blocks_[id].newer) {
    CHECK(++states[id] == 1 && num_holders(id) == 0 && blocks_[id].content != kNothing);
    CHECK_EQ(blocks_[blocks_[id].newer].older, id);
    ++num_listed;
  }
  CHECK_EQ(num_listed, num_cached_);
  size_t num_published = 0;
  for (int32_t id = 0; id < end_of_list(); ++id) {
    const Block& block = blocks_[id];
    CHECK_EQ(states[id] + static_cast<int>(num_holders(id) > 0), 1);
    if (block.content == kNothing) continue;
    ++num_published;
    const auto [found, content] = Find(block.root, block.before, block.tokens);
    CHECK(found == id && content == block.content);
  }
  CHECK_EQ(num_published, published_.size());
}

}  // namespace polystrate
