// What the host does between two decode steps, for batches as large as the MLKV paper's: with
// lookahead a GPU does not wait for it. Scheduler, plan, result, tokens to text and to their sinks;
// neither a model nor a network. Medians over steps, in microseconds of processor time.
//
//   step_host_bench [context=2000] [sequences=1 256 4096 14336]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "engine/live_request.h"
#include "engine/scheduler.h"
#include "engine/tokenizer.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/places.h"

namespace polystrate {
namespace {

constexpr int64_t kSteps = 33;

class Counter : public TokenSink {
 public:
  void OnPrompt(const std::vector<PromptScore>&) override {}
  void OnToken(const TokenInfo& token) override { bytes_ += token.text.size(); }
  void OnFinished(const Finished&) override {}
  void OnError(const absl::Status&) override {}
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

struct Host {
  Host(const Tokenizer& tokenizer, int64_t num_seqs, int64_t context)
      : scheduler({.num_blocks = num_seqs * ((context + kSteps) / 16 + 2),
                   .max_num_seqs = num_seqs,
                   .max_num_batched_tokens = num_seqs * context}) {  // all prompts in a step
    scheduler.SetLookahead();
    for (int64_t i = 0; i < num_seqs; ++i) {
      GenerationRequest request;
      request.prompt = RandomTokens(context, tokenizer.vocab_size(), i);
      request.bypass_prefix_cache = true;
      requests.push_back(std::make_unique<LiveRequest>(i, std::move(request), 2 * kSteps, &sink,
                                                       &tokenizer, absl::Span<const int32_t>()));
      scheduler.Add(requests.back()->MakeSequence(0));
    }
  }
  // As the sampler would answer, by way of bytes.
  StepResult Answer(const StepPlan& plan, int64_t vocab_size) const {
    StepResult result;
    result.step_id = plan.step_id;
    for (const SamplePoint& point : plan.samples) {
      const auto token = static_cast<int32_t>((point.sequence_id * 31 + point.params.position) %
                                              static_cast<uint64_t>(vocab_size));
      result.samples.push_back(
          {point.sequence_id, static_cast<int64_t>(point.params.position), token, -1.0f});
    }
    return StepResult::FromBytes(result.ToBytes());
  }
  void Commit(const StepResult& result) {
    scheduler.Retire(result.step_id);
    for (const SampledToken& sample : result.samples) {
      CHECK(scheduler.Append(sample.sequence_id, sample.position, sample.token_id));
      requests[RequestOf(sample.sequence_id)]->AddToken(0, sample, {});
    }
  }

  Counter sink;
  Scheduler scheduler;
  std::vector<std::unique_ptr<LiveRequest>> requests;
};

// Of this thread, so that a neighbour does not show.
double ProcessorSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double Median(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return 1e6 * seconds[seconds.size() / 2];
}

void Measure(const Tokenizer& tokenizer, int64_t num_seqs, int64_t context) {
  Host host(tokenizer, num_seqs, context);
  std::optional<StepPlan> in_flight;
  std::vector<double> schedule, commit;
  while (schedule.size() < kSteps) {
    const double begin = ProcessorSeconds();
    std::optional<StepPlan> next = host.scheduler.Schedule();
    const double planned = ProcessorSeconds();
    CHECK(next.has_value());
    const bool decodes = in_flight.has_value() && next->num_tokens() == num_seqs &&
                         static_cast<int64_t>(in_flight->samples.size()) == num_seqs;
    const StepResult result =
        in_flight.has_value() ? host.Answer(*in_flight, tokenizer.vocab_size()) : StepResult();
    const double answered = ProcessorSeconds();
    if (in_flight.has_value()) host.Commit(result);
    in_flight = std::move(next);
    if (!decodes) continue;
    schedule.push_back(planned - begin);
    commit.push_back(ProcessorSeconds() - answered);
  }
  std::printf("%6lld sequences of %lld tokens: schedule %8.1f us, commit and text %8.1f us\n",
              static_cast<long long>(num_seqs), static_cast<long long>(context), Median(schedule),
              Median(commit));
  CHECK_GT(host.sink.bytes(), 0u);
}

int Main(int argc, char** argv) {
  const auto tokenizer = Tokenizer::ReadFile(SourceFile("models/demo/tokenizer.json"));
  CHECK(tokenizer.ok());
  const int64_t context = argc > 1 ? std::atoll(argv[1]) : 2000;
  std::vector<int64_t> batches = {1, 256, 4096, 14336};
  if (argc > 2) batches.clear();
  for (int i = 2; i < argc; ++i) batches.push_back(std::atoll(argv[i]));
  for (const int64_t num_seqs : batches) Measure(**tokenizer, num_seqs, context);
  return 0;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) { return polystrate::Main(argc, argv); }
