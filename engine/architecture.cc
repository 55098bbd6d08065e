#include "engine/architecture.h"

#include <array>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/json.h"

namespace polystrate {
namespace {

// Every family the engine knows.
std::array<const Architecture*, 2> Architectures() {
  return {&GptNeoxArchitecture(), &LlamaArchitecture()};
}

// a supported one: "gpt_neox" (GPT-NeoX, Pythia, MLKV), ...
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

const Architecture* ArchitectureOf(absl::string_view model_type) {
  for (const Architecture* architecture : Architectures()) {
    for (const absl::string_view known : architecture->model_types)
      if (known == model_type) return architecture;
  }
  return nullptr;
}

absl::StatusOr<const Architecture*> FindArchitecture(const JsonView& root) {
  const std::optional<JsonView> type = root.Find("model_type");
  if (!type.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(root.document(), ": \"model_type\" is missing, expected ", KnownTypes()));
  }
  const absl::StatusOr<std::string_view> name = type->AsString("model_type");
  if (name.ok()) {
    const Architecture* architecture = ArchitectureOf({name->data(), name->size()});
    if (architecture != nullptr) return architecture;
  }
  return type->Unexpected("model_type", KnownTypes());
}

}  // namespace polystrate
