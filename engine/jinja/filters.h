// Filters: `value | name(arguments)`.
#pragma once

#include <string_view>

#include "engine/jinja/arguments.h"

namespace polystrate::jinja {

// Null where there is none of that name.
Callable FindFilter(std::string_view name);

// The tables behind it.
Callable FindTextFilter(std::string_view name);      // of texts and numbers
Callable FindSequenceFilter(std::string_view name);  // of lists and objects

}  // namespace polystrate::jinja
