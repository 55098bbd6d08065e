#include "engine/jinja/arguments.h"

#include "absl/strings/str_format.h"
#include "kernels/core/status.h"

namespace polystrate::jinja {

const Value* Arguments::FindKeyword(std::string_view name) const {
  for (const auto& [key, value] : keywords) {
    if (key == name) return &value;
  }
  return nullptr;
}

absl::Status Take(const Arguments& arguments, absl::Span<const Slot> slots) {
  if (arguments.positional.size() > slots.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("%d arguments, expected at most %d",
                                                      arguments.positional.size(), slots.size()));
  }
  size_t num_keywords = 0;
  size_t place = 0;
  for (const Slot& slot : slots) {
    const bool by_place = place < arguments.positional.size();
    const Value* keyword = arguments.FindKeyword(slot.name);
    if (by_place) *slot.value = arguments.positional[place];
    if (keyword != nullptr) {
      if (by_place) {
        return absl::InvalidArgumentError(
            absl::StrFormat("the argument '%s' is passed twice", slot.name));
      }
      *slot.value = *keyword;
      ++num_keywords;
    }
    if (!slot.optional && !by_place && keyword == nullptr) {
      return absl::InvalidArgumentError(absl::StrFormat("the argument '%s' is missing", slot.name));
    }
    ++place;
  }
  if (num_keywords == arguments.keywords.size()) return absl::OkStatus();
  for (const auto& [key, value] : arguments.keywords) {
    bool known = false;
    for (const Slot& slot : slots) known |= slot.name == key;
    if (!known) return absl::InvalidArgumentError(absl::StrFormat("no argument '%s'", key));
  }
  return absl::InvalidArgumentError("an argument is passed twice by name");
}

absl::Status WrongType(const Value& value, std::string_view expected) {
  if (value.IsUndefined()) return IsUndefinedError(value.undefined());
  return absl::InvalidArgumentError(
      absl::StrFormat("expected %s, got a value of type '%s'", expected, value.TypeName()));
}

absl::Status IsUndefinedError(const Undefined& undefined) {
  if (undefined.name == nullptr) {
    return absl::InvalidArgumentError("an element that is not there is undefined");
  }
  if (undefined.owner == nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat("'%s' is undefined", *undefined.name));
  }
  return absl::InvalidArgumentError(absl::StrFormat("a value of type '%s' has no attribute '%s'",
                                                    undefined.owner, *undefined.name));
}

}  // namespace polystrate::jinja
