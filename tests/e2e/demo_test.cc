// The models that the repository keeps, as a newcomer meets them: their cards' losses, through the
// real binary, whatever the cut.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "engine/json.h"
#include "tests/testing/places.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

const std::string kModels = SourceFile("models/");

// Mean loss of each line that `score` printed.
std::vector<double> WindowLosses(const std::string& out) {
  std::vector<double> losses;
  for (const absl::string_view line : absl::StrSplit(out, '\n', absl::SkipEmpty())) {
    const Json json = *Json::Parse(std::string(line), "output");
    double sum = 0;
    const std::vector<JsonView> logprobs = json.root().GetArray("logprobs")->Elements();
    for (size_t i = 1; i < logprobs.size(); ++i) sum -= *logprobs[i].AsDouble("logprob");
    losses.push_back(sum / static_cast<double>(logprobs.size() - 1));
  }
  return losses;
}

class KeptModel : public testing::TestWithParam<const char*> {};

TEST_P(KeptModel, ScoreReproducesTheCardsLoss) {
  const std::string model = absl::StrCat(kModels, GetParam());
  const Json card = *Json::ReadFile(model + "/heldout.json", 1 << 20);
  const std::vector<JsonView> expected = card.root().GetArray("sample_window_losses")->Elements();
  ASSERT_EQ(expected.size(), 8u);
  const CommandLine score =
      Polystrate({"score", "--model", model, "--input", model + "/heldout_sample.jsonl"});
  CommandLine cut = score;
  cut.insert(cut.end(), {"--tp", "2", "--pp", "2"});
  for (const CommandLine& command : {score, Mpirun(4, cut)}) {
    const CommandResult result = RunCommand(command);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const std::vector<double> losses = WindowLosses(result.out);
    ASSERT_EQ(losses.size(), expected.size());
    for (size_t i = 0; i < losses.size(); ++i) {
      const double loss = *expected[i].AsDouble("loss");
      EXPECT_NEAR(losses[i], loss, 0.01 * loss) << "window " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, KeptModel,
                         testing::Values("demo", "shakespeare-mha", "shakespeare-mlkv-4"),
                         [](const auto& model) {
                           return absl::StrReplaceAll(model.param, {{"-", "_"}});
                         });

TEST(Demo, GenerateStreamsTheSameTextForTheSameSeed) {
  const CommandLine generate =
      Polystrate({"generate", "--model", absl::StrCat(kModels, "demo"), "--prompt", "ROMEO:\n",
                  "--max_tokens", "60", "--temperature", "0.8", "--seed", "7"});
  const CommandResult first = RunCommand(generate);
  const CommandResult second = RunCommand(generate);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_GT(first.out.size(), 60u);
  EXPECT_EQ(first.out, second.out);
}

}  // namespace
}  // namespace polystrate
