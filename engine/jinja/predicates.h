// Tests: `value is name(arguments)`. They give a bool.
#pragma once

#include <string_view>

#include "engine/jinja/arguments.h"

namespace polystrate::jinja {

// Null where there is none of that name.
Callable FindTest(std::string_view name);

}  // namespace polystrate::jinja
