#include "engine/sharing_keys.h"

#include "absl/strings/str_cat.h"
#include "engine/config_keys.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::StatusOr<KvSharing> ReadKvSource(const JsonView& root, int num_layers) {
  ASSIGN_OR_RETURN(const JsonView list, root.GetArray("kv_source"));
  if (list.size() != num_layers) {
    return list.Unexpected("kv_source",
                           absl::StrCat("one layer for each of num_hidden_layers, ", num_layers));
  }
  KvSharing sharing;
  for (const JsonView& source : list.Elements()) {
    ASSIGN_OR_RETURN(const int64_t layer, IntWithin(source, "kv_source", 0, num_layers - 1));
    sharing.kv_source.push_back(static_cast<int>(layer));
  }
  if (const absl::Status status = sharing.Validate(); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": kv_source: ", status.message()));
  }
  return sharing;
}

}  // namespace

absl::StatusOr<KvSharing> ReadSharing(const JsonView& root, int num_layers) {
  if (root.Has("kv_source")) return ReadKvSource(root, num_layers);
  // Published stock configs have no such key, and the MLKV class's own default, 44, fits no
  // published model: absent means unshared.
  ASSIGN_OR_RETURN(const int64_t kv_layers, SizeOr(root, "num_key_value_layers", num_layers,
                                                   /*otherwise=*/num_layers));
  return KvSharing::Mlkv(num_layers, static_cast<int>(kv_layers));
}

}  // namespace polystrate
