#include "engine/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>
#include <set>
#include <vector>

#include "tests/testing/full_length.h"

namespace polystrate {
namespace {

using Table = std::vector<int32_t>;

TEST(BlockPool, GivesEachBlockOnceAndTakesThemBack) {
  BlockPool blocks(5);
  Table a, b;
  ASSERT_TRUE(blocks.Allocate(3, &a));
  ASSERT_TRUE(blocks.Allocate(2, &b));
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(blocks.num_free(), 0);
  blocks.Free(&a);
  EXPECT_TRUE(a.empty());
  EXPECT_EQ(blocks.num_free(), 3);
  blocks.CheckInvariants();
}

TEST(BlockPool, RefusesAllOrNothing) {
  BlockPool blocks(4);
  Table table;
  ASSERT_TRUE(blocks.Allocate(3, &table));
  EXPECT_FALSE(blocks.Allocate(2, &table));
  EXPECT_EQ(table.size(), 3u);
  EXPECT_EQ(blocks.num_free(), 1);
  EXPECT_TRUE(blocks.Allocate(0, &table));
  EXPECT_TRUE(BlockPool(0).Allocate(0, &table));
}

TEST(BlockPoolDeathTest, FreeingTwiceIsABug) {
  BlockPool blocks(2);
  Table table;
  ASSERT_TRUE(blocks.Allocate(1, &table));
  Table copy = table;
  blocks.Free(&table);
  EXPECT_DEATH(blocks.Free(&copy), "CHECK failed");
}

// Publishes the blocks of a fresh table as a chain, one token each; returns their contents.
std::vector<BlockPool::Content> PublishChain(BlockPool& pool, const CacheRoot& root,
                                             const Table& table, const Table& tokens) {
  std::vector<BlockPool::Content> contents;
  BlockPool::Content before = BlockPool::kNothing;
  for (size_t i = 0; i < table.size(); ++i) {
    before = pool.Publish(table[i], root, before, {&tokens[i], 1});
    contents.push_back(before);
  }
  return contents;
}

int32_t FindFirst(const BlockPool& pool, const CacheRoot& root, int32_t token) {
  return pool.Find(root, BlockPool::kNothing, {&token, 1}).first;
}

TEST(BlockPool, APrefixOutlivesItsContinuations) {
  BlockPool pool(4);
  Table table;
  ASSERT_TRUE(pool.Allocate(3, &table));
  const Table chain = table;
  const Table tokens = {7, 8, 9};
  const auto contents = PublishChain(pool, {}, table, tokens);
  pool.Free(&table);
  EXPECT_EQ(pool.num_cached(), 3);
  EXPECT_EQ(pool.num_used(), 0);

  Table other;
  ASSERT_TRUE(pool.Allocate(1, &other));  // the free one
  EXPECT_EQ(pool.num_evictions(), 0);
  ASSERT_TRUE(pool.Allocate(1, &other));
  EXPECT_EQ(other.back(), chain[2]);
  ASSERT_TRUE(pool.Allocate(1, &other));
  EXPECT_EQ(other.back(), chain[1]);
  EXPECT_EQ(pool.num_evictions(), 2);
  EXPECT_EQ(FindFirst(pool, {}, 7), chain[0]);
  EXPECT_EQ(pool.Find({}, contents[0], {&tokens[1], 1}).first, -1);
}

// Its tokens are the same, but who finds the new first block must not go on to the old second one:
// nobody has checked that they belong together.
TEST(BlockPool, AContinuationIsNotFoundAfterAnotherPublication) {
  BlockPool pool(3);
  Table table;
  ASSERT_TRUE(pool.Allocate(2, &table));
  const Table tokens = {7, 8};
  const auto contents = PublishChain(pool, {}, table, tokens);
  pool.Unpublish({table.data(), 1});
  Table again;
  ASSERT_TRUE(pool.Allocate(1, &again));
  const auto content = pool.Publish(again[0], {}, BlockPool::kNothing, {tokens.data(), 1});
  EXPECT_NE(content, contents[0]);
  EXPECT_EQ(pool.Find({}, content, {&tokens[1], 1}).first, -1);
  pool.CheckInvariants();
}

TEST(BlockPool, TheFirstOfTwoEqualBlocksIsTheOneThatIsFound) {
  BlockPool pool(2);
  Table a, b;
  ASSERT_TRUE(pool.Allocate(1, &a));
  ASSERT_TRUE(pool.Allocate(1, &b));
  const auto first = PublishChain(pool, {}, a, {5});
  EXPECT_EQ(PublishChain(pool, {}, b, {5}), first);
  EXPECT_EQ(FindFirst(pool, {}, 5), a[0]);
  pool.Free(&b);
  EXPECT_EQ(pool.num_free(), 1);  // nothing can be found in it
  pool.Free(&a);
  EXPECT_EQ(pool.num_cached(), 1);
}

TEST(BlockPool, RootsDoNotShare) {
  const std::vector<CacheRoot> roots = {{},       {.salt = "a"},     {.salt = "b"},
                                        {"", 1},  {"", 2},           {.salt = "1"},
                                        {"a", 3}, {.salt = "a\xff"}, {.salt = std::string(1, 0)}};
  BlockPool pool(static_cast<int64_t>(roots.size()));
  std::vector<Table> tables(roots.size());
  for (size_t i = 0; i < roots.size(); ++i) {
    EXPECT_EQ(FindFirst(pool, roots[i], 5), -1);
    ASSERT_TRUE(pool.Allocate(1, &tables[i]));
    PublishChain(pool, roots[i], tables[i], {5});
  }
  for (size_t i = 0; i < roots.size(); ++i) EXPECT_EQ(FindFirst(pool, roots[i], 5), tables[i][0]);
  EXPECT_EQ(FindFirst(pool, {"b", 3}, 5), tables[6][0]);  // a private root's salt is not looked at
  pool.CheckInvariants();
}

TEST(BlockPool, PrivateBlocksAreFreeOnceNobodyHoldsThem) {
  BlockPool pool(3);
  const CacheRoot root{"", 9};
  Table table;
  ASSERT_TRUE(pool.Allocate(2, &table));
  PublishChain(pool, root, table, {1, 2});
  Table sibling = {FindFirst(pool, root, 1)};
  pool.Hold(sibling[0]);
  pool.Free(&table);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(FindFirst(pool, root, 1), sibling[0]);
  pool.Free(&sibling);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(FindFirst(pool, root, 1), -1);
}

// A pool so simple that it can be seen to be right: publications are compared token by token from
// the first on, and searched one after the other.
class NaivePool {
 public:
  struct Publication {
    int32_t block;
    CacheRoot root;
    int64_t before;  // index of a publication, -1 for none
    Table prefix;    // all tokens up to the block's end
    bool live = true;
  };

  explicit NaivePool(int64_t num_blocks) : holders_(num_blocks, 0) {}

  int64_t num_cached() const { return static_cast<int64_t>(cached_.size()); }
  int64_t num_used() const {
    return std::count_if(holders_.begin(), holders_.end(), [](int n) { return n > 0; });
  }
  int64_t num_free() const {
    return static_cast<int64_t>(holders_.size()) - num_used() - num_cached();
  }
  const Publication& at(int64_t publication) const { return publications_[publication]; }

  // `block` is what the pool gave: free, or, with no free one left, the oldest cached.
  void Take(int32_t block) {
    ASSERT_EQ(holders_[block], 0);
    const bool free = std::find(cached_.begin(), cached_.end(), block) == cached_.end();
    ASSERT_EQ(free, num_free() > 0);
    if (!free) {
      ASSERT_EQ(block, cached_.front());
      cached_.pop_front();
      Unpublish(block);
    }
    holders_[block] = 1;
  }
  void Hold(int32_t block) {
    if (holders_[block]++ == 0) cached_.remove(block);
  }
  void Free(const Table& table) {
    for (auto block = table.rbegin(); block != table.rend(); ++block) {
      if (--holders_[*block] > 0) continue;
      const int64_t publication = Of(*block);
      if (publication >= 0 && publications_[publication].root.private_id == 0) {
        cached_.push_back(*block);
      } else {
        Unpublish(*block);
      }
    }
  }
  void Unpublish(int32_t block) {
    const int64_t publication = Of(block);
    if (publication >= 0) publications_[publication].live = false;
    cached_.remove(block);
  }
  int64_t Find(const CacheRoot& root, int64_t before, const Table& prefix) const {
    for (size_t i = 0; i < publications_.size(); ++i) {
      const Publication& p = publications_[i];
      const bool same_root = root.private_id != 0
                                 ? p.root.private_id == root.private_id
                                 : p.root.private_id == 0 && p.root.salt == root.salt;
      if (p.live && same_root && p.before == before && p.prefix == prefix) return i;
    }
    return -1;
  }
  int64_t Publish(int32_t block, const CacheRoot& root, int64_t before, const Table& prefix) {
    const int64_t same = Find(root, before, prefix);
    if (same >= 0) return same;
    publications_.push_back({block, root, before, prefix});
    return static_cast<int64_t>(publications_.size()) - 1;
  }

 private:
  int64_t Of(int32_t block) const {
    for (size_t i = 0; i < publications_.size(); ++i) {
      if (publications_[i].live && publications_[i].block == block) return i;
    }
    return -1;
  }
  std::vector<int> holders_;
  std::list<int32_t> cached_;  // oldest first
  std::vector<Publication> publications_;
};

// Sequences that come, find what they can, take and publish the rest, grow and go.
class Actor {
 public:
  Actor(uint64_t seed, int64_t num_blocks)
      : random_(seed), pool_(num_blocks), naive_(num_blocks), sequences_(6) {
    roots_ = {{}, {.salt = "s"}, {.salt = "t"}, {"", 1}, {"s", 2}};
  }

  void Step() {
    Sequence& sequence = sequences_[random_() % sequences_.size()];
    switch (random_() % 8) {
      case 0:
        if (random_() % 4 == 0) Forget(sequence);
        [[fallthrough]];
      case 1:
        naive_.Free(sequence.table);
        pool_.Free(&sequence.table);
        sequence = Sequence();
        break;
      default:
        if (sequence.table.empty()) sequence.root = roots_[random_() % roots_.size()];
        Grow(&sequence, random_() % 5);
    }
    pool_.CheckInvariants();
    ASSERT_EQ(pool_.num_free(), naive_.num_free());
    ASSERT_EQ(pool_.num_cached(), naive_.num_cached());
    ASSERT_EQ(pool_.num_used(), naive_.num_used());
  }

  void FreeAll() {
    for (Sequence& sequence : sequences_) pool_.Free(&sequence.table);
    EXPECT_EQ(pool_.num_used(), 0);
  }
  int64_t num_hits() const { return num_hits_; }
  int64_t num_evictions() const { return pool_.num_evictions(); }

 private:
  static constexpr size_t kBlockSize = 2;
  struct Sequence {
    CacheRoot root;
    Table table;
    Table tokens;
    bool matching = true;  // nothing but found blocks so far
    BlockPool::Content content = BlockPool::kNothing;
    int64_t publication = -1;  // the naive pool's word for content
  };

  void Grow(Sequence* sequence, int64_t num_blocks) {
    for (int64_t i = 0; i < num_blocks; ++i) {
      if (!GrowByOne(sequence)) return;
      if (::testing::Test::HasFatalFailure()) return;
    }
  }

  bool GrowByOne(Sequence* sequence) {
    Table tokens(kBlockSize);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % 2);
    Table prefix = sequence->tokens;
    prefix.insert(prefix.end(), tokens.begin(), tokens.end());
    if (sequence->matching) Match(sequence, tokens, prefix);
    if (!sequence->matching && !Take(sequence, tokens, prefix)) return false;
    sequence->tokens = prefix;
    return true;
  }

  void Match(Sequence* sequence, const Table& tokens, const Table& prefix) {
    const auto [block, content] = pool_.Find(sequence->root, sequence->content, tokens);
    const int64_t publication = naive_.Find(sequence->root, sequence->publication, prefix);
    ASSERT_EQ(block, publication < 0 ? -1 : naive_.at(publication).block);
    sequence->matching = block >= 0;
    if (block < 0) return;
    pool_.Hold(block);
    naive_.Hold(block);
    sequence->table.push_back(block);
    sequence->content = content;
    sequence->publication = publication;
    ++num_hits_;
  }

  bool Take(Sequence* sequence, const Table& tokens, const Table& prefix) {
    const bool any = pool_.num_available() > 0;
    EXPECT_EQ(pool_.Allocate(1, &sequence->table), any);
    if (!any) return false;
    const int32_t block = sequence->table.back();
    naive_.Take(block);
    sequence->content = pool_.Publish(block, sequence->root, sequence->content, tokens);
    sequence->publication = naive_.Publish(block, sequence->root, sequence->publication, prefix);
    return true;
  }

  // All that can be found of its tokens, whoever holds it.
  void Forget(const Sequence& sequence) {
    BlockPool::Content content = BlockPool::kNothing;
    Table found;
    for (size_t end = kBlockSize; end <= sequence.tokens.size(); end += kBlockSize) {
      const auto [block, next] =
          pool_.Find(sequence.root, content, {&sequence.tokens[end - kBlockSize], kBlockSize});
      if (block < 0) break;
      found.push_back(block);
      content = next;
    }
    pool_.Unpublish(found);
    for (int32_t block : found) naive_.Unpublish(block);
  }

  std::mt19937_64 random_;
  BlockPool pool_;
  NaivePool naive_;
  std::vector<Sequence> sequences_;
  std::vector<CacheRoot> roots_;
  int64_t num_hits_ = 0;
};

TEST(BlockPool, DoesWhatTheNaiveOneDoes) {
  int64_t num_hits = 0, num_evictions = 0;
  const uint64_t rounds = Length(400, 50000);
  for (uint64_t seed = 0; seed < rounds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Actor actor(seed, seed % 25);
    for (int step = 0; step < 200; ++step) {
      actor.Step();
      if (HasFatalFailure()) return;
    }
    actor.FreeAll();
    num_hits += actor.num_hits();
    num_evictions += actor.num_evictions();
  }
  EXPECT_GT(num_hits, 1000);  // or nothing was tested
  EXPECT_GT(num_evictions, 1000);
}

}  // namespace
}  // namespace polystrate
