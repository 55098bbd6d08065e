#include "engine/architecture.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/json.h"

namespace polystrate {
namespace {

// Every family the engine knows.
std::array<const Architecture*, 1> Architectures() { return {&GptNeoxArchitecture()}; }

// "a known one: "gpt_neox" (GPT-NeoX, Pythia, MLKV), ..."
std::string KnownTypes() {
  std::vector<std::string> families;
  for (const Architecture* architecture : Architectures()) {
    families.push_back(absl::StrCat("\"", absl::StrJoin(architecture->model_types, "\", \""),
                                    "\" (", architecture->title, ")"));
  }
  return absl::StrCat("a supported one: ", absl::StrJoin(families, ", "));
}

}  // namespace

std::string TensorNames::InLayer(int layer, absl::string_view stem) const {
  return absl::StrCat(layers, layer, ".", stem);
}

absl::StatusOr<const Architecture*> FindArchitecture(const JsonView& root) {
  const std::optional<JsonView> type = root.Find("model_type");
  if (!type.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": \"model_type\" is missing, expected ", KnownTypes()));
  }
  const absl::StatusOr<std::string_view> name = type->AsString("model_type");
  for (const Architecture* architecture : Architectures()) {
    for (const absl::string_view known : architecture->model_types)
      if (name.ok() && *name == std::string_view(known.data(), known.size())) return architecture;
  }
  return type->Unexpected("model_type", KnownTypes());
}

}  // namespace polystrate
