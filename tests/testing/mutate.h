// Mutate: what a fuzzer does to a text, with a fixed seed, so that a failure can be repeated.
#pragma once

#include <algorithm>
#include <random>
#include <string>

namespace polystrate {

// One to three edits at random places: a byte replaced (mostly by one that JSON gives a meaning), a
// byte inserted, a few erased, a piece repeated elsewhere, or a bit turned. Never empty.
inline std::string Mutate(std::string text, std::mt19937* random) {
  static constexpr char kBytes[] =
      "{}[]\":,.-+0123456789eEtrufalsn\\u FU_\n\xff\xc3\x80";  // and NUL
  const auto below = [random](size_t n) { return static_cast<size_t>((*random)() % n); };
  const std::string original = text;
  for (size_t i = below(3) + 1; i > 0; --i) {
    const size_t at = below(text.size());
    switch (below(5)) {
      case 0:
        text[at] = kBytes[below(sizeof(kBytes))];
        break;
      case 1:
        text.insert(at, 1, kBytes[below(sizeof(kBytes))]);
        break;
      case 2:
        text.erase(at, below(8) + 1);
        break;
      case 3:
        text.insert(at, text.substr(below(text.size()), below(30)));
        break;
      default:
        text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
    }
    if (text.empty()) text = original;
  }
  return text;
}

}  // namespace polystrate
