#include "launcher/eval_metrics.h"

#include <cmath>
#include <functional>

#include "kernels/core/check.h"
#include "launcher/bootstrap.h"

namespace polystrate {
namespace {

constexpr int64_t kNumResamples = 100'000;

Metric MeanMetric(const std::string& name, absl::Span<const double> values) {
  Metric metric{name, Mean(values)};
  if (values.size() > 1) {
    metric.standard_error =
        StandardDeviation(values) / std::sqrt(static_cast<double>(values.size()));
  }
  return metric;
}

std::vector<Metric> LambadaMetrics(absl::Span<const std::vector<ContinuationScore>> scores) {
  std::vector<double> log_likelihoods, hits;
  for (const auto& score : scores) {
    log_likelihoods.push_back(score[0].log_likelihood);
    hits.push_back(score[0].greedy ? 1.0 : 0.0);
  }
  const auto perplexity_of = [](double mean) { return std::exp(-mean); };
  Metric perplexity{"perplexity", perplexity_of(Mean(log_likelihoods))};
  if (scores.size() > 1) {
    perplexity.standard_error =
        BootstrapStandardError(log_likelihoods, perplexity_of, kNumResamples);
  }
  return {perplexity, MeanMetric("acc", hits)};
}

// Without the space in front.
double NumBytes(const std::string& choice) { return static_cast<double>(choice.size() - 1); }
double NumCharacters(const std::string& choice) {
  int64_t count = 0;
  for (const char byte : choice) count += (byte & 0xc0) != 0x80;  // each character's first byte
  return static_cast<double>(count - 1);
}
double One(const std::string&) { return 1.0; }

Metric ChoiceAccuracy(const std::string& name, absl::Span<const EvalQuestion> questions,
                      absl::Span<const std::vector<ContinuationScore>> scores,
                      const std::function<double(const std::string& choice)>& length) {
  std::vector<double> hits;
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::vector<std::string>& choices = questions[i].continuations;
    const auto likelihood = [&](size_t j) {
      return scores[i][j].log_likelihood / length(choices[j]);
    };
    size_t best = 0;
    for (size_t j = 1; j < choices.size(); ++j) {
      if (likelihood(j) > likelihood(best)) best = j;
    }
    hits.push_back(static_cast<int64_t>(best) == questions[i].gold ? 1.0 : 0.0);
  }
  return MeanMetric(name, hits);
}

}  // namespace

std::vector<Metric> ComputeMetrics(EvalTask task, absl::Span<const EvalQuestion> questions,
                                   absl::Span<const std::vector<ContinuationScore>> scores) {
  CHECK_EQ(questions.size(), scores.size());
  for (size_t i = 0; i < questions.size(); ++i) {
    CHECK_EQ(questions[i].continuations.size(), scores[i].size());
  }
  if (task == EvalTask::kLambada) return LambadaMetrics(scores);
  return {ChoiceAccuracy("acc", questions, scores, One),
          ChoiceAccuracy("acc_norm", questions, scores, NumCharacters),
          ChoiceAccuracy("acc_bytes", questions, scores, NumBytes)};
}

}  // namespace polystrate
