#include "rpc/coordinator/prefix_index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <string>

namespace polystrate {
namespace {

namespace pb = openengine::v1;

pb::GenerateRequest Ids(const std::vector<uint32_t>& ids) {
  pb::GenerateRequest request;
  for (const uint32_t id : ids) request.mutable_token_ids()->add_ids(id);
  return request;
}

pb::GenerateRequest Text(const std::string& text) {
  pb::GenerateRequest request;
  request.set_prompt(text);
  return request;
}

size_t InCommon(const PrefixHashes& a, const PrefixHashes& b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  for (size_t i = n; i < a.size() && i < b.size(); ++i) EXPECT_NE(a[i], b[i]);
  return n;
}

TEST(PrefixIndexTest, AChunkIs64BytesOr16Ids) {
  EXPECT_EQ(HashPrefix(Text(std::string(63, 'x'))).size(), 0u);
  EXPECT_EQ(HashPrefix(Text(std::string(64, 'x'))).size(), 1u);
  EXPECT_EQ(HashPrefix(Text(std::string(1000, 'x'))).size(), 15u);
  EXPECT_EQ(HashPrefix(Ids(std::vector<uint32_t>(15, 3))).size(), 0u);
  EXPECT_EQ(HashPrefix(Ids(std::vector<uint32_t>(100, 3))).size(), 6u);
  EXPECT_TRUE(HashPrefix(pb::GenerateRequest()).empty());
}

TEST(PrefixIndexTest, PromptsShareWhatTheyBeginWith) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint32_t> a(200 + random() % 200);
    for (uint32_t& id : a) id = static_cast<uint32_t>(random() % 50'000);
    std::vector<uint32_t> b = a;
    const size_t differs = random() % 200;
    b[differs] ^= 1u << (random() % 32);
    EXPECT_EQ(InCommon(HashPrefix(Ids(a)), HashPrefix(Ids(b))), differs / 16);

    std::string text(500, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 26);
    std::string other = text;
    const size_t at = random() % 448;
    other[at] = '#';
    EXPECT_EQ(InCommon(HashPrefix(Text(text)), HashPrefix(Text(other))), at / 64);
  }
}

TEST(PrefixIndexTest, WhoseCachesAreApartShareNothing) {
  const std::string text(640, 'x');
  const PrefixHashes plain = HashPrefix(Text(text));
  pb::GenerateRequest request = Text(text);
  request.mutable_kv()->set_cache_salt("tenant");
  EXPECT_EQ(InCommon(plain, HashPrefix(request)), 0u);
  request = Text(text);
  request.set_lora_name("lora");
  EXPECT_EQ(InCommon(plain, HashPrefix(request)), 0u);
  request = Text(text);
  request.set_model("demo");  // an engine has one: named or not
  EXPECT_EQ(InCommon(plain, HashPrefix(request)), 10u);
  request.mutable_kv()->set_bypass_prefix_cache(true);
  EXPECT_TRUE(HashPrefix(request).empty());
  // The same bytes as ids.
  EXPECT_EQ(InCommon(plain, HashPrefix(Ids(std::vector<uint32_t>(160, 0x78787878)))), 0u);
}

TEST(PrefixIndexTest, KnowsWhatAnEngineHasSeen) {
  PrefixIndex index;
  const PrefixHashes a = {1, 2, 3, 4, 5};
  const PrefixHashes b = {1, 2, 8};
  EXPECT_EQ(index.Match(a, 1), 0);
  index.Use(a, 1);
  EXPECT_EQ(index.Match(a, 1), 5);
  EXPECT_EQ(index.Match(b, 1), 2);
  EXPECT_EQ(index.Match({1, 2, 3, 4, 5, 6, 7}, 1), 5);
  EXPECT_EQ(index.Match({9, 92, 93}, 1), 0);
  EXPECT_EQ(index.Match({}, 1), 0);
  EXPECT_EQ(index.Match(a, 2), 0) << "another process, or another engine";
  index.Use(b, 2);
  EXPECT_EQ(index.Match(a, 2), 2);
  EXPECT_EQ(index.size(), 8u);
}

TEST(PrefixIndexTest, ForgetsWhatWasUsedLongestAgo) {
  PrefixIndex index(10);
  const PrefixHashes a = {1, 2, 3, 4, 5};
  const PrefixHashes b = {11, 12, 13, 14, 15};
  index.Use(a, 1);
  index.Use(b, 1);
  index.Use(a, 1);
  index.Use({21, 22}, 1);
  EXPECT_EQ(index.size(), 10u);
  EXPECT_EQ(index.Match(a, 1), 5);
  EXPECT_EQ(index.Match(b, 1), 3) << "its end goes first";
  // What a process that is gone leaves behind goes before all that is used.
  for (int i = 0; i < 3; ++i) {
    index.Use({31, 32, 33, 34, 35}, 2);
    index.Use({21, 22}, 2);
  }
  EXPECT_EQ(index.Match({31, 32, 33, 34, 35}, 2), 5);
  EXPECT_EQ(index.Match({21, 22}, 2), 2);
  EXPECT_EQ(index.size(), 10u);
}

TEST(PrefixIndexTest, APromptLongerThanTheIndexKeepsItsBeginning) {
  PrefixIndex index(4);
  index.Use({1, 2, 3, 4, 5, 6}, 1);
  EXPECT_EQ(index.size(), 4u);
  EXPECT_EQ(index.Match({1, 2, 3, 4, 5, 6}, 1), 4);
}

// Against a list that is looked through.
TEST(PrefixIndexTest, IsBoundedAndExactOverManyRandomUses) {
  constexpr size_t kCapacity = 300;
  PrefixIndex index(kCapacity);
  std::mt19937 random(5);
  std::map<std::pair<uint64_t, uint64_t>, int> last_use;  // of (hash, engine)
  int clock = 0;
  const auto prompt = [&random] {
    // A tree: chunk i of a prompt stands for all before it.
    PrefixHashes hashes;
    uint64_t node = 1 + random() % 4;
    for (size_t i = 1 + random() % 18; i > 0; --i) {
      hashes.push_back(node);
      node = node * 10 + random() % 2;
    }
    return hashes;
  };
  for (int round = 0; round < 5000; ++round) {
    const PrefixHashes hashes = prompt();
    const uint64_t engine = random() % 3;
    int64_t expected = 0;
    for (const uint64_t hash : hashes) {
      if (last_use.count({hash, engine}) == 0) break;
      ++expected;
    }
    ASSERT_EQ(index.Match(hashes, engine), expected) << round;
    index.Use(hashes, engine);
    for (size_t i = hashes.size(); i-- > 0;) last_use[{hashes[i], engine}] = ++clock;
    while (last_use.size() > kCapacity) {
      auto oldest = last_use.begin();
      for (auto it = last_use.begin(); it != last_use.end(); ++it) {
        if (it->second < oldest->second) oldest = it;
      }
      last_use.erase(oldest);
    }
    ASSERT_EQ(index.size(), last_use.size());
  }
}

}  // namespace
}  // namespace polystrate
