#include "parallel/kv_sharing.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::Status CheckSharesSomething(const char* map, int num_layers) {
  if (num_layers >= 4) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(map, " over ", num_layers,
                                                 " layers would share nothing; expected at least "
                                                 "4 layers"));
}

}  // namespace

KvSharing KvSharing::AllOwn(int num_layers) {
  KvSharing sharing;
  sharing.kv_source.resize(num_layers);
  std::iota(sharing.kv_source.begin(), sharing.kv_source.end(), 0);
  return sharing;
}

absl::StatusOr<KvSharing> KvSharing::Mlkv(int num_layers, int num_key_value_layers) {
  if (num_key_value_layers < 1 || num_key_value_layers > num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("num_key_value_layers is ", num_key_value_layers,
                                                   "; expected 1 to the number of layers, ",
                                                   num_layers));
  }
  // Truncation of the double product, not floor(i * l / m): the two differ for 680 pairs up to 256
  // layers, (30, 22) is the first, and checkpoints were made with this one.
  const double stride = static_cast<double>(num_layers) / num_key_value_layers;
  std::vector<int> owners = {0};
  for (int i = 1; i < num_key_value_layers; ++i) owners.push_back(static_cast<int>(i * stride));
  return FromOwners(num_layers, owners);
}

absl::StatusOr<KvSharing> KvSharing::Cla(int num_layers, int factor) {
  if (factor < 1 || num_layers < 1) {
    return absl::InvalidArgumentError(absl::StrCat("CLA sharing factor ", factor, " over ",
                                                   num_layers,
                                                   " layers; expected both to be at least 1"));
  }
  std::vector<int> owners = {0};
  const int short_group = num_layers % factor;
  for (int l = short_group > 0 ? short_group : factor; l < num_layers; l += factor) {
    owners.push_back(l);
  }
  return FromOwners(num_layers, owners);
}

absl::StatusOr<KvSharing> KvSharing::KeepEnds(int num_layers) {
  RETURN_IF_ERROR(CheckSharesSomething("KeepEnds", num_layers));
  ASSIGN_OR_RETURN(const KvSharing middle, Cla(num_layers - 2, 2));
  std::vector<int> owners = {0};
  for (int owner : middle.owners()) owners.push_back(owner + 1);
  owners.push_back(num_layers - 1);
  return FromOwners(num_layers, owners);
}

absl::StatusOr<KvSharing> KvSharing::DenseFront(int num_layers) {
  RETURN_IF_ERROR(CheckSharesSomething("DenseFront", num_layers));
  std::vector<int> owners(num_layers / 2);
  std::iota(owners.begin(), owners.end(), 0);
  owners.push_back(num_layers - 1);
  return FromOwners(num_layers, owners);
}

absl::StatusOr<KvSharing> KvSharing::DenseBack(int num_layers) {
  RETURN_IF_ERROR(CheckSharesSomething("DenseBack", num_layers));
  std::vector<int> owners(num_layers / 2 + 1);
  owners[1] = 1;
  std::iota(owners.begin() + 2, owners.end(), num_layers - num_layers / 2 + 1);
  return FromOwners(num_layers, owners);
}

absl::StatusOr<KvSharing> KvSharing::FromOwners(int num_layers, const std::vector<int>& owners) {
  if (num_layers < 1 || owners.empty() || owners.front() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the owners of a model of ", num_layers, " layers ",
                     owners.empty() ? "are missing" : absl::StrCat("begin at ", owners.front()),
                     "; expected at least one layer, and layer 0 to own"));
  }
  KvSharing sharing;
  sharing.kv_source.resize(num_layers);
  for (size_t i = 0; i < owners.size(); ++i) {
    const int end = i + 1 < owners.size() ? owners[i + 1] : num_layers;
    if (end <= owners[i] || end > num_layers) {
      return absl::InvalidArgumentError(
          absl::StrCat("owner ", owners[i], " is followed by ", end, " in a model of ", num_layers,
                       " layers; expected ascending layers below ", num_layers));
    }
    std::fill(sharing.kv_source.begin() + owners[i], sharing.kv_source.begin() + end, owners[i]);
  }
  return sharing;
}

bool KvSharing::shares() const { return static_cast<int>(owners().size()) < num_layers(); }

std::vector<int> KvSharing::owners() const {
  std::vector<int> owners;
  for (int l = 0; l < num_layers(); ++l) {
    if (owns(l)) owners.push_back(l);
  }
  return owners;
}

std::vector<std::vector<int>> KvSharing::groups() const {
  std::vector<std::vector<int>> groups;
  std::vector<size_t> group_of(kv_source.size());
  for (int l = 0; l < num_layers(); ++l) {
    if (owns(l)) {
      group_of[l] = groups.size();
      groups.emplace_back();
    }
    groups[group_of[kv_source[l]]].push_back(l);
  }
  return groups;
}

int KvSharing::slot(int layer) const {
  CHECK(layer >= 0 && layer < num_layers());
  int slot = 0;
  for (int l = 0; l < kv_source[layer]; ++l) slot += owns(l) ? 1 : 0;
  return slot;
}

std::vector<int> KvSharing::legal_cuts() const {
  std::vector<int> cuts;
  // A cut at c is legal when the lowest layer that [c, num_layers) reads is c itself.
  int lowest_read = num_layers();
  for (int c = num_layers() - 1; c > 0; --c) {
    lowest_read = std::min(lowest_read, kv_source[c]);
    if (lowest_read == c) cuts.push_back(c);
  }
  std::reverse(cuts.begin(), cuts.end());
  return cuts;
}

absl::Status KvSharing::Validate() const {
  if (kv_source.empty()) {
    return absl::InvalidArgumentError("kv_source is empty; expected one entry per layer");
  }
  for (int l = 0; l < num_layers(); ++l) {
    const int source = kv_source[l];
    if (source < 0 || source > l) {
      return absl::InvalidArgumentError(absl::StrCat(
          "kv_source[", l, "] is ", source, "; expected 0 to ", l,
          ": a layer reads its own KV cache or that of a lower layer. One above it has "
          "none yet when the layer runs, so a map that reads upward needs several "
          "passes over a prompt, which this engine does not make"));
    }
    if (kv_source[source] != source) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv_source[", l, "] is ", source, ", but layer ", source,
                       " has no KV cache: it reads layer ", kv_source[source],
                       "; expected a layer that owns its KV cache"));
    }
  }
  return absl::OkStatus();
}

}  // namespace polystrate
