// Parser: a template's text to its tree. Statements here, expressions in expression_parser.h.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "engine/jinja/ast.h"

namespace polystrate::jinja {

inline constexpr size_t kMaxTemplateBytes = 1 << 20;

// INVALID_ARGUMENT starts with "line N: " where there is a line, and says what is not understood.
absl::StatusOr<Template> ParseTemplate(const std::string& text);

}  // namespace polystrate::jinja
