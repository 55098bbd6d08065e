#include "engine/sharing_keys.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/config_keys.h"
#include "kernels/core/status.h"
#include "parallel/kv_source_text.h"

namespace polystrate {
namespace {

absl::Status In(const std::string& where, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", status.message()));
}

absl::StatusOr<KvSharing> ParseText(const std::string& where, absl::string_view text,
                                    int num_layers) {
  absl::StatusOr<KvSharing> sharing = ParseKvSource(text, num_layers);
  if (!sharing.ok()) return In(where, sharing.status());
  return sharing;
}

absl::StatusOr<KvSharing> ReadKvSource(const JsonView& root, int num_layers) {
  if (root.Find("kv_source")->IsString()) {
    ASSIGN_OR_RETURN(const std::string text, root.GetString("kv_source"));
    return ParseText(root.document(), text, num_layers);
  }
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
  if (const absl::Status status = sharing.Validate(); !status.ok())
    return In(root.document() + ": kv_source", status);
  return sharing;
}

// "0_0s_2_2s".
absl::StatusOr<KvSharing> ReadLckvTypes(const JsonView& root, int num_layers) {
  ASSIGN_OR_RETURN(const std::string text, root.GetString("layer_types"));
  std::vector<absl::string_view> sources = absl::StrSplit(text, '_');
  for (size_t layer = 0; layer < sources.size(); ++layer) {
    sources[layer] = absl::StripSuffix(sources[layer], "s");
    int source = 0;
    if (absl::SimpleAtoi(sources[layer], &source) && source > static_cast<int>(layer)) {
      return absl::InvalidArgumentError(absl::StrCat(
          root.document(), ": layer_types \"", text, "\": layer ", layer, " reads layer ", source,
          " above it; expected itself or a lower layer. A map that reads upward needs the layers "
          "of a prompt computed several times over, until keys and values settle, which this "
          "engine does not do"));
    }
  }
  return ParseText(root.document() + ": layer_types", absl::StrJoin(sources, ","), num_layers);
}

}  // namespace

absl::StatusOr<KvSharing> ReadSharing(const JsonView& root, const std::optional<std::string>& flag,
                                      int num_layers) {
  if (flag.has_value()) return ParseText("--kv_source", *flag, num_layers);
  if (root.Has("kv_source")) return ReadKvSource(root, num_layers);
  if (root.Has("layer_types") && root.Find("layer_types")->IsString())
    return ReadLckvTypes(root, num_layers);
  // Published stock configs have no such key, and the MLKV class's own default, 44, fits no
  // published model: absent means unshared.
  ASSIGN_OR_RETURN(const int64_t kv_layers, SizeOr(root, "num_key_value_layers", num_layers,
                                                   /*otherwise=*/num_layers));
  return KvSharing::Mlkv(num_layers, static_cast<int>(kv_layers));
}

}  // namespace polystrate
