// From log-likelihoods to a task's metrics, defined as lm-evaluation-harness defines them. Pure
// functions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "launcher/eval_task.h"

namespace polystrate {

// What the model says of one continuation.
struct ContinuationScore {
  double log_likelihood = 0.0;  // nats, summed over its tokens
  bool greedy = false;          // each of its tokens is the likeliest in its place
};

struct Metric {
  std::string name;
  double value = 0.0;
  std::optional<double> standard_error;  // needs two questions
};

// scores[i][j]: of continuation j of question i. lambada: perplexity, exp of the mean negative
// log-likelihood of the last words (not of tokens), its standard error by bootstrap; acc, the share
// of words that greedy decoding gives. choices: the share of questions whose likeliest choice is
// the right one, by log-likelihood (acc), by that per character (acc_norm) and per UTF-8 byte
// (acc_bytes), the space in front of a choice not counted; the first of equals counts.
std::vector<Metric> ComputeMetrics(EvalTask task, absl::Span<const EvalQuestion> questions,
                                   absl::Span<const std::vector<ContinuationScore>> scores);

}  // namespace polystrate
