// MB/s of Encode and Decode on one thread, and the time to read tokenizer.json. The whole file is
// encoded at once and again line by line, as requests come.
//
//   tokenizer_bench [tokenizer.json] [text file]
// Without arguments: the demo model's and GPT-NeoX's tokenizers on Shakespeare, as far as they are
// there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "engine/tokenizer.h"
#include "tests/testing/places.h"
#include "tests/testing/shared_data.h"
#include "tests/testing/temp_dir.h"

namespace polystrate {
namespace {

constexpr int kRepetitions = 5;

// The shortest of some runs, in seconds.
double Fastest(const std::function<void()>& work) {
  double fastest = 1e30;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fastest = std::min(fastest, seconds.count());
  }
  return fastest;
}

void Measure(const std::string& tokenizer_path, const std::string& text_path) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer;
  const double load_s = Fastest([&] { tokenizer = Tokenizer::ReadFile(tokenizer_path); });
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return;
  }
  const std::string text = ReadFile(text_path);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1) {
    if (text.find('\n', begin) == std::string::npos) break;
    lines.push_back(text.substr(begin, text.find('\n', begin) + 1 - begin));
  }
  std::vector<int32_t> ids;
  std::string decoded;
  const double whole_s =
      Fastest([&] { ids = (*tokenizer)->Encode(text, AddSpecialTokens::kNo).value(); });
  const double lines_s = Fastest([&] {
    for (const std::string& line : lines)
      (void)(*tokenizer)->Encode(line, AddSpecialTokens::kNo).value();
  });
  const double decode_s = Fastest([&] { decoded = (*tokenizer)->Decode(ids, false); });
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf("%s on %s: %.2f MB, %zu tokens, %s\n", tokenizer_path.c_str(), text_path.c_str(),
              megabytes, ids.size(),
              decoded == text ? "decodes to itself" : "DECODES TO OTHER TEXT");
  std::printf("  read %.0f ms, encode %.1f MB/s whole and %.1f MB/s by line, decode %.1f MB/s\n",
              load_s * 1e3, megabytes / whole_s, megabytes / lines_s, megabytes / decode_s);
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) {
  using polystrate::SharedData;
  if (argc == 3) {
    polystrate::Measure(argv[1], argv[2]);
    return 0;
  }
  const auto text = SharedData("shakespeare.txt");
  if (!text.has_value()) {
    std::fprintf(stderr, "no shared data: shakespeare.txt\n");
    return 1;
  }
  polystrate::Measure(polystrate::SourceFile("models/demo/tokenizer.json"), *text);
  if (const auto neox = SharedData("gpt_neox_20b_tokenizer.json")) {
    polystrate::Measure(*neox, *text);
  }
  return 0;
}
