// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status, which Debian 12's abseil does not ship.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                     \
  do {                                                  \
    absl::Status return_if_error_status = (expression); \
    if (!return_if_error_status.ok()) [[unlikely]]      \
      return return_if_error_status;                    \
  } while (false)

#define POLYSTRATE_CONCAT_INNER(a, b) a##b
#define POLYSTRATE_CONCAT(a, b) POLYSTRATE_CONCAT_INNER(a, b)
// NOLINTBEGIN(bugprone-macro-parentheses): `result` and `lhs` are declarations.
#define POLYSTRATE_ASSIGN_OR_RETURN(result, lhs, expression) \
  auto result = (expression);                                \
  if (!result.ok()) [[unlikely]]                             \
    return result.status();                                  \
  lhs = std::move(result).value()
// NOLINTEND(bugprone-macro-parentheses)

// ASSIGN_OR_RETURN(auto file, OpenFile(path)); returns the error from the enclosing function.
#define ASSIGN_OR_RETURN(lhs, expression) \
  POLYSTRATE_ASSIGN_OR_RETURN(POLYSTRATE_CONCAT(status_or_, __LINE__), lhs, expression)
