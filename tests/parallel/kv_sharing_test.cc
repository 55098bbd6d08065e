#include "parallel/kv_sharing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace polystrate {
namespace {

using Layers = std::vector<int>;

Layers MlkvOwners(int num_layers, int num_key_value_layers) {
  return KvSharing::Mlkv(num_layers, num_key_value_layers).value().owners();
}

// floor(i * l / m) in exact integers: what MLKV's rule would be without its rounding.
Layers ExactFloorOwners(int num_layers, int num_key_value_layers) {
  Layers owners;
  for (int i = 0; i < num_key_value_layers; ++i) {
    owners.push_back(i * num_layers / num_key_value_layers);
  }
  return owners;
}

// A map with every freedom Validate allows: reusers choose any owner below them.
KvSharing RandomSharing(std::mt19937& random) {
  const int num_layers = 1 + static_cast<int>(random() % 24);
  KvSharing sharing;
  Layers owners;
  for (int l = 0; l < num_layers; ++l) {
    if (l == 0 || random() % 2 == 0) owners.push_back(l);
    // Recent owners more often, so that some cuts stay legal.
    const size_t back = std::min<size_t>(owners.size() - 1, random() % 4 == 0 ? random() % 24 : 0);
    const bool owns = owners.back() == l;
    sharing.kv_source.push_back(owns ? l : owners[owners.size() - 1 - back]);
  }
  return sharing;
}

TEST(KvSharingTest, AllOwnHasNoReuser) {
  const KvSharing sharing = KvSharing::AllOwn(4);
  EXPECT_EQ(sharing.kv_source, (Layers{0, 1, 2, 3}));
  EXPECT_FALSE(sharing.shares());
  EXPECT_EQ(sharing.legal_cuts(), (Layers{1, 2, 3}));
  EXPECT_TRUE(sharing.Validate().ok());
}

TEST(KvSharingTest, MlkvPaperVariants) {
  EXPECT_EQ(MlkvOwners(12, 12), (Layers{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(MlkvOwners(12, 6), (Layers{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(MlkvOwners(12, 4), (Layers{0, 3, 6, 9}));
  EXPECT_EQ(MlkvOwners(12, 2), (Layers{0, 6}));
  EXPECT_EQ(MlkvOwners(12, 1), (Layers{0}));
  EXPECT_EQ(MlkvOwners(24, 8), (Layers{0, 3, 6, 9, 12, 15, 18, 21}));  // pythia-410m-mlkv-8
}

TEST(KvSharingTest, MlkvWhereOwnersDoNotDivideLayers) {
  EXPECT_EQ(MlkvOwners(12, 5), (Layers{0, 2, 4, 7, 9}));
  EXPECT_EQ(MlkvOwners(12, 7), (Layers{0, 1, 3, 5, 6, 8, 10}));
  EXPECT_EQ(MlkvOwners(20, 7), (Layers{0, 2, 5, 8, 11, 14, 17}));
  EXPECT_EQ(MlkvOwners(10, 4), (Layers{0, 2, 5, 7}));
  EXPECT_EQ(MlkvOwners(24, 7), (Layers{0, 3, 6, 10, 13, 17, 20}));
}

// The pairs of seeds where the published code's double product falls below the exact one.
TEST(KvSharingTest, MlkvTruncatesTheDoubleProduct) {
  struct Case {
    int num_layers, num_key_value_layers;
    Layers owners;  // instead of the layer above
  };
  const Case cases[] = {{30, 22, {14}}, {30, 26, {14}}, {52, 46, {25}}, {60, 44, {14, 29}},
                        {62, 58, {30}}, {96, 88, {59}}, {128, 98, {63}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.num_layers << ", " << c.num_key_value_layers);
    const Layers exact = ExactFloorOwners(c.num_layers, c.num_key_value_layers);
    Layers expected = exact;
    for (int layer : c.owners) {
      EXPECT_FALSE(std::binary_search(exact.begin(), exact.end(), layer));
      *std::find(expected.begin(), expected.end(), layer + 1) = layer;
    }
    EXPECT_EQ(MlkvOwners(c.num_layers, c.num_key_value_layers), expected);
  }
}

TEST(KvSharingTest, MlkvDiffersFromExactFloorFor680PairsUpTo256Layers) {
  int differing = 0;
  for (int l = 1; l <= 256; ++l) {
    for (int m = 1; m <= l; ++m) {
      Layers rule = {0};  // as the published code writes it
      for (int i = 0; i < m - 1; ++i) {
        rule.push_back(static_cast<int>((i + 1) * (static_cast<double>(l) / m)));
      }
      const absl::StatusOr<KvSharing> sharing = KvSharing::Mlkv(l, m);
      ASSERT_TRUE(sharing.ok()) << sharing.status();
      const Layers owners = sharing->owners();
      ASSERT_EQ(owners, rule) << l << ", " << m;
      if (owners == ExactFloorOwners(l, m)) continue;
      ++differing;
      EXPECT_NE(l % m, 0) << l << ", " << m;
    }
  }
  EXPECT_EQ(differing, 680);
}

TEST(KvSharingTest, ClaPutsTheShortGroupFirst) {
  EXPECT_EQ(KvSharing::Cla(10, 2)->owners(), (Layers{0, 2, 4, 6, 8}));
  EXPECT_EQ(KvSharing::Cla(10, 3)->owners(), (Layers{0, 1, 4, 7}));
  EXPECT_EQ(KvSharing::Cla(10, 4)->owners(), (Layers{0, 2, 6}));
  EXPECT_EQ(KvSharing::Cla(20, 2)->owners().size(), 10u);
  EXPECT_EQ(KvSharing::Cla(20, 3)->owners(), (Layers{0, 2, 5, 8, 11, 14, 17}));
  EXPECT_EQ(KvSharing::Cla(20, 4)->owners(), (Layers{0, 4, 8, 12, 16}));
  EXPECT_EQ(KvSharing::Cla(5, 1)->owners(), (Layers{0, 1, 2, 3, 4}));
  EXPECT_EQ(KvSharing::Cla(5, 9)->owners(), (Layers{0}));
}

// CLA's non-uniform maps of 20 layers and 11 owners. The paper's DenseBack adds up to 21 layers
// (2 + 10 + 9); its 11 owners mean a run of 9.
TEST(KvSharingTest, ClaNonUniformMaps) {
  struct Case {
    std::string name;
    KvSharing sharing;
    Layers owners;
  };
  const Case cases[] = {
      {"KeepEnds", *KvSharing::KeepEnds(20), {0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19}},
      {"DenseFront", *KvSharing::DenseFront(20), {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 19}},
      {"DenseBack", *KvSharing::DenseBack(20), {0, 1, 11, 12, 13, 14, 15, 16, 17, 18, 19}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(c.sharing.owners(), c.owners);
    EXPECT_TRUE(c.sharing.Validate().ok());
    EXPECT_EQ(c.sharing.legal_cuts(), Layers(c.owners.begin() + 1, c.owners.end()));
  }
  EXPECT_EQ(cases[1].sharing.groups()[9], (Layers{9, 10, 11, 12, 13, 14, 15, 16, 17, 18}));
  EXPECT_EQ(cases[2].sharing.groups()[1], (Layers{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

TEST(KvSharingTest, ClaNonUniformMapsOfOtherDepths) {
  EXPECT_EQ(KvSharing::KeepEnds(4)->kv_source, (Layers{0, 1, 1, 3}));
  EXPECT_EQ(KvSharing::KeepEnds(5)->kv_source, (Layers{0, 1, 2, 2, 4}));
  EXPECT_EQ(KvSharing::KeepEnds(8)->kv_source, (Layers{0, 1, 1, 3, 3, 5, 5, 7}));
  EXPECT_EQ(KvSharing::DenseFront(4)->kv_source, (Layers{0, 1, 1, 3}));
  EXPECT_EQ(KvSharing::DenseFront(5)->kv_source, (Layers{0, 1, 1, 1, 4}));
  EXPECT_EQ(KvSharing::DenseFront(8)->kv_source, (Layers{0, 1, 2, 3, 3, 3, 3, 7}));
  EXPECT_EQ(KvSharing::DenseBack(4)->kv_source, (Layers{0, 1, 1, 3}));
  EXPECT_EQ(KvSharing::DenseBack(5)->kv_source, (Layers{0, 1, 1, 1, 4}));
  EXPECT_EQ(KvSharing::DenseBack(8)->kv_source, (Layers{0, 1, 1, 1, 1, 5, 6, 7}));
  for (int l = 4; l <= 64; ++l) {
    SCOPED_TRACE(l);
    for (const KvSharing& sharing :
         {*KvSharing::KeepEnds(l), *KvSharing::DenseFront(l), *KvSharing::DenseBack(l)}) {
      EXPECT_TRUE(sharing.Validate().ok());
      EXPECT_TRUE(sharing.shares());
      EXPECT_TRUE(sharing.owns(l - 1));
    }
    EXPECT_EQ(KvSharing::DenseFront(l)->owners().size(), KvSharing::DenseBack(l)->owners().size());
  }
  for (int l : {-1, 0, 1, 3}) {
    EXPECT_EQ(KvSharing::KeepEnds(l).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(KvSharing::DenseFront(l).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(KvSharing::DenseBack(l).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Hunyuan-Large: layer i owns where i % cla_share_factor == 0, so the short group comes last.
TEST(KvSharingTest, HunyuanFactorAsAnOwnerList) {
  const KvSharing sharing = KvSharing::FromOwners(10, {0, 3, 6, 9}).value();
  EXPECT_EQ(sharing.kv_source, (Layers{0, 0, 0, 3, 3, 3, 6, 6, 6, 9}));
}

// Gemma 3n's trailing layers read the last owner of their own kind (sliding or full attention):
// groups interleave and only cuts before the first shared owner are legal.
TEST(KvSharingTest, InterleavedGroups) {
  const KvSharing sharing = {{0, 1, 2, 3, 2, 3, 2, 3}};
  EXPECT_TRUE(sharing.Validate().ok());
  EXPECT_EQ(sharing.groups(), (std::vector<Layers>{{0}, {1}, {2, 4, 6}, {3, 5, 7}}));
  EXPECT_EQ(sharing.legal_cuts(), (Layers{1, 2}));
  EXPECT_EQ(sharing.slot(6), 2);
  EXPECT_EQ(sharing.slot(7), 3);
}

TEST(KvSharingTest, RandomMapsKeepTheirDefinitions) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    const KvSharing sharing = RandomSharing(random);
    ASSERT_TRUE(sharing.Validate().ok()) << sharing.Validate();
    Layers cuts;
    for (int c = 1; c < sharing.num_layers(); ++c) {
      bool legal = true;
      for (int l = c; l < sharing.num_layers(); ++l) legal &= sharing.kv_source[l] >= c;
      if (legal) cuts.push_back(c);
    }
    ASSERT_EQ(sharing.legal_cuts(), cuts);
    const Layers owners = sharing.owners();
    const std::vector<Layers> groups = sharing.groups();
    ASSERT_EQ(groups.size(), owners.size());
    ASSERT_EQ(sharing.shares(), owners.size() < sharing.kv_source.size());
    Layers layers;
    for (size_t g = 0; g < groups.size(); ++g) {
      ASSERT_EQ(groups[g].front(), owners[g]);
      ASSERT_TRUE(std::is_sorted(groups[g].begin(), groups[g].end()));
      for (int l : groups[g]) {
        ASSERT_EQ(sharing.kv_source[l], owners[g]);
        ASSERT_EQ(sharing.slot(l), static_cast<int>(g));
        layers.push_back(l);
      }
    }
    std::sort(layers.begin(), layers.end());
    ASSERT_EQ(layers, KvSharing::AllOwn(sharing.num_layers()).kv_source);
    for (int c : cuts) ASSERT_TRUE(sharing.owns(c));
  }
}

TEST(KvSharingTest, ValidateNamesTheFirstLayerAtFault) {
  const auto message = [](Layers kv_source) {
    const absl::Status status = KvSharing{std::move(kv_source)}.Validate();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_NE(message({}).find("empty"), std::string::npos);
  EXPECT_NE(message({1, 1}).find("kv_source[0] is 1; expected 0 to 0"), std::string::npos);
  EXPECT_NE(message({1, 1}).find("reads upward"), std::string::npos);
  EXPECT_NE(message({0, -1}).find("kv_source[1] is -1; expected 0 to 1"), std::string::npos);
  EXPECT_NE(message({0, 0, 7}).find("kv_source[2] is 7; expected 0 to 2"), std::string::npos);
  EXPECT_NE(message({0, 0, 1, 9}).find("kv_source[2] is 1, but layer 1 has no KV cache"),
            std::string::npos);
}

TEST(KvSharingTest, RefusesRulesThatMakeNoMap) {
  EXPECT_EQ(KvSharing::Mlkv(12, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(KvSharing::Mlkv(12, 13).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(KvSharing::Cla(12, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(KvSharing::Cla(0, 2).status().code(), absl::StatusCode::kInvalidArgument);
  for (const Layers& owners : {Layers{}, {1}, {0, 3, 3}, {0, 6, 4}, {0, 12}, {0, 13, 5}}) {
    EXPECT_EQ(KvSharing::FromOwners(12, owners).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace polystrate
