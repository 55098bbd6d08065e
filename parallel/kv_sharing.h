// KvSharing: which layer's KV cache each layer reads. Pure data; everything that must know about
// sharing (loader, cache, transformer, planner, reports) reads it here and nowhere else.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace polystrate {

struct KvSharing {
  // kv_source[l] == l: layer l is an owner, it projects and stores K and V.
  // kv_source[l] <  l: layer l is a reuser, it reads the cache of that owner.
  std::vector<int> kv_source;

  // Every layer owns (MHA, GQA, MQA).
  static KvSharing AllOwn(int num_layers);
  // MLKV's rule for m owning layers (arXiv:2406.09297, its published code): owners are
  // 0 and int((i + 1) * (l / m)) with l / m in double precision, truncated.  1 <= m <= l.
  static absl::StatusOr<KvSharing> Mlkv(int num_layers, int num_key_value_layers);
  // CLA's rule (arXiv:2405.12981): groups of `factor` adjacent layers; where factor does not divide
  // the layers, the short group comes first.
  static absl::StatusOr<KvSharing> Cla(int num_layers, int factor);
  // The non-uniform maps of the same paper, which gives them for 20 layers and 11 owners. What each
  // generalises to, with l layers, l / 2 rounded down; from 4 layers on, below nothing is shared.
  //
  // KeepEnds: layers 0 and l - 1 share with none, those between are Cla(l - 2, 2).
  static absl::StatusOr<KvSharing> KeepEnds(int num_layers);
  // DenseFront: the first l / 2 layers own, then all read layer l / 2 - 1, and the last owns.
  static absl::StatusOr<KvSharing> DenseFront(int num_layers);
  // DenseBack: layers 0 and 1 own, then all read layer 1, and the last l / 2 - 1 own: as many
  // owners as DenseFront. The paper's text counts one layer too many, 2 + 10 + 9 of 20; its size,
  // 11 owners, makes the run in the middle one of 9.
  static absl::StatusOr<KvSharing> DenseBack(int num_layers);
  // A map whose groups are runs of adjacent layers, from its owners in ascending order, owners[0] =
  // 0.
  static absl::StatusOr<KvSharing> FromOwners(int num_layers, const std::vector<int>& owners);

  int num_layers() const { return static_cast<int>(kv_source.size()); }
  bool owns(int layer) const { return kv_source[layer] == layer; }
  bool shares() const;              // true when at least one layer is a reuser
  std::vector<int> owners() const;  // ascending
  // One entry per owner, in that order: the owner and all its reusers, ascending.
  std::vector<std::vector<int>> groups() const;
  // Index in owners() of the owner that `layer` reads: its place in the cache of a whole model.
  int slot(int layer) const;
  // Interior layers c, 0 < c < num_layers, such that no layer >= c reads a layer < c, ascending.
  std::vector<int> legal_cuts() const;

  // INVALID_ARGUMENT naming the first layer at fault: layer 0 owns, 0 <= kv_source[l] <= l, a
  // source owns itself, not empty.
  absl::Status Validate() const;
};

}  // namespace polystrate
