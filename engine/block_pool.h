// BlockPool: which KV blocks are free, which are in use and by how many sequences, and which full
// blocks hold tokens that a later sequence may find (a prefix cache). Block ids only: every stage
// and every slot has the same blocks, so one table serves the whole engine. Rank 0, engine thread.
//
// A block is in one of three states:
//   free    nobody holds it, and nothing of what it holds can be found;
//   used    held by one sequence or more; published or not;
//   cached  held by nobody, but published: found again, or evicted when no block is free.
//
// A published block is found by what decides its K and V, which is every token up to its end. That
// is the content before it (a number given to each publication and never used again, which so
// stands for all the tokens before) and its own tokens. Both are compared, not only hashed, so
// there is no wrong hit. A block whose predecessor has been evicted can no longer be found and ages
// out; it is rare, because a sequence gives its blocks back last first.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace polystrate {

// Whose first blocks a sequence may find. Salts are compared as they are: the same one shares,
// another never does; the empty one is that of everybody who names none.
struct CacheRoot {
  std::string salt;
  // Not 0: only sequences with the same number share, and only while one of them holds the blocks.
  // The salt is then not looked at.
  uint64_t private_id = 0;

  bool is_private() const { return private_id != 0; }
};

class BlockPool {
 public:
  // What stands for all tokens up to the end of a published block.
  using Content = uint64_t;
  static constexpr Content kNothing = 0;  // before a first block

  explicit BlockPool(int64_t num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()) - 1; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_cached() const { return num_cached_; }
  int64_t num_used() const { return num_blocks() - num_available(); }
  int64_t num_available() const { return num_free() + num_cached(); }
  int64_t num_evictions() const { return num_evictions_; }

  // Appends `count` blocks, held once, to `table`: free ones first, then the cached ones that were
  // given back longest ago. False, and nothing changes, when there are not so many.
  bool Allocate(int64_t count, std::vector<int32_t>* table);
  // Gives every block of `table` back, last first, and clears it. One that nobody holds any more is
  // cached if it was published under a root that is not private, otherwise free.
  void Free(std::vector<int32_t>* table);

  // From here on the block can be found as the one that goes on from `before` with `tokens`; its
  // holder promises that it will have been written before whoever finds it reads it. Returns its
  // content; when another block has the same already, that one's, and this one stays as it is.
  Content Publish(int32_t block, const CacheRoot& root, Content before,
                  absl::Span<const int32_t> tokens);
  // The published block that goes on from `before` with `tokens`, and its content; -1 without.
  std::pair<int32_t, Content> Find(const CacheRoot& root, Content before,
                                   absl::Span<const int32_t> tokens) const;
  int32_t num_holders(int32_t block) const { return blocks_[block].num_holders; }
  bool is_free(int32_t block) const {
    return blocks_[block].num_holders == 0 && blocks_[block].content == kNothing;
  }
  // One more holder of a block that was found.
  void Hold(int32_t block);
  // What these published blocks hold shall not be found any more.
  void Unpublish(absl::Span<const int32_t> blocks);

  // CHECKs that states, counts, the list of cached blocks and what can be found agree; for tests.
  void CheckInvariants() const;

 private:
  // Views of a Block's own.
  struct Key {
    Content before;
    uint64_t private_id;     // of the first block's root alone
    absl::string_view salt;  // of the first block's root alone
    absl::Span<const int32_t> tokens;

    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.before, key.private_id, key.salt, key.tokens);
    }
  };
  struct Block {
    int32_t num_holders = 0;
    // Cached blocks are a list in the order in which they were given back.
    int32_t older = 0;
    int32_t newer = 0;
    // What was published; kNothing: not published.
    Content content = kNothing;
    Content before = kNothing;
    CacheRoot root;
    std::vector<int32_t> tokens;
  };

  static Key MakeKey(const CacheRoot& root, Content before, absl::Span<const int32_t> tokens);
  int32_t end_of_list() const { return static_cast<int32_t>(num_blocks()); }
  void Append(int32_t block);
  void Unlink(int32_t block);
  void Unpublish(Block* block);
  int32_t Evict();

  std::vector<Block> blocks_;  // [num_blocks + 1], the last one is both ends of the list of cached
  std::vector<int32_t> free_;  // a stack: the block freed last, warm in the cache, is used first
  absl::flat_hash_map<Key, int32_t> published_;
  Content next_content_ = 1;
  int64_t num_cached_ = 0;
  int64_t num_evictions_ = 0;
};

}  // namespace polystrate
