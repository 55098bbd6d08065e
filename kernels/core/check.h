// CHECK for bugs (never for the user's mistakes, those are absl::Status), and the one way to log.
// Debian 12's abseil has no absl/log yet; these names are absl's so that it can take over.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace polystrate {

// Prints "file:line: CHECK failed: what" to standard error and aborts.
[[noreturn]] inline void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what.c_str());
  std::abort();
}

template <typename A, typename B>
std::string CheckOpMessage(const char* expression, const A& a, const B& b) {
  std::ostringstream out;
  out << expression << " (" << a << " vs. " << b << ")";
  return out.str();
}

}  // namespace polystrate

#define CHECK(condition)                                         \
  do {                                                           \
    if (!(condition)) [[unlikely]]                               \
      ::polystrate::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#define POLYSTRATE_CHECK_OP(op, a, b)                                                             \
  do {                                                                                            \
    const auto& check_a = (a);                                                                    \
    const auto& check_b = (b);                                                                    \
    if (!(check_a op check_b)) [[unlikely]]                                                       \
      ::polystrate::CheckFailed(                                                                  \
          __FILE__, __LINE__, ::polystrate::CheckOpMessage(#a " " #op " " #b, check_a, check_b)); \
  } while (false)

#define CHECK_EQ(a, b) POLYSTRATE_CHECK_OP(==, a, b)
#define CHECK_NE(a, b) POLYSTRATE_CHECK_OP(!=, a, b)
#define CHECK_LT(a, b) POLYSTRATE_CHECK_OP(<, a, b)
#define CHECK_LE(a, b) POLYSTRATE_CHECK_OP(<=, a, b)
#define CHECK_GT(a, b) POLYSTRATE_CHECK_OP(>, a, b)
#define CHECK_GE(a, b) POLYSTRATE_CHECK_OP(>=, a, b)
