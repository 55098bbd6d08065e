#include "parallel/kv_source_text.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::StatusOr<KvSharing> ParseList(absl::string_view text, int num_layers) {
  KvSharing sharing;
  const char separator = absl::StrContains(text, ',') ? ',' : '_';
  for (const absl::string_view part : absl::StrSplit(text, separator)) {
    int source = 0;
    if (!absl::SimpleAtoi(part, &source)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "kv_source \"", text, "\": \"", part,
          "\" is no layer; expected one number for each layer, as 0,0,2,2 or 0_0_2_2"));
    }
    sharing.kv_source.push_back(source);
  }
  if (sharing.num_layers() != num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("kv_source \"", text, "\" has ",
                                                   sharing.num_layers(),
                                                   " entries; expected one for "
                                                   "each of the ",
                                                   num_layers, " layers"));
  }
  RETURN_IF_ERROR(sharing.Validate());
  return sharing;
}

// "cla3" with prefix "cla" -> 3.
bool ParseNumbered(absl::string_view text, absl::string_view prefix, int* number) {
  return absl::ConsumePrefix(&text, prefix) && !text.empty() && absl::ascii_isdigit(text[0]) &&
         absl::SimpleAtoi(text, number);
}

}  // namespace

absl::StatusOr<KvSharing> ParseKvSource(absl::string_view text, int num_layers) {
  // Names begin with a letter.
  if (text.find_first_of("0123456789") == 0 || absl::StartsWith(text, "-")) {
    return ParseList(text, num_layers);
  }
  int number = 0;
  if (ParseNumbered(text, "cla", &number)) return KvSharing::Cla(num_layers, number);
  if (ParseNumbered(text, "mlkv", &number)) return KvSharing::Mlkv(num_layers, number);
  if (text == "keep_ends") return KvSharing::KeepEnds(num_layers);
  if (text == "dense_front") return KvSharing::DenseFront(num_layers);
  if (text == "dense_back") return KvSharing::DenseBack(num_layers);
  return absl::InvalidArgumentError(absl::StrCat(
      "kv_source \"", text,
      "\" is no sharing map; expected the layer that each layer reads, as 0,0,2,2, or one of claN "
      "(as cla2), mlkvM (as mlkv4), keep_ends, dense_front, dense_back"));
}

}  // namespace polystrate
